// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is done for each queue, each descriptor that is ready, and each time that comes.

use std::sync::Arc;
use std::time::Instant;

use super::device::Sizes;
use super::port::{Due, Port};
use super::port_queue::PortQueue;
use super::spec::{self, Message, Role};
use crate::throttle::Throttle;
use crate::virtio::active_queue::ActiveQueue;
use crate::virtio::queue::{QueueError, QueueState};
use crate::virtio::worker::{Event, Service, Waits};

/// How many control messages are tried in a turn: each port has five things to be told at most.
const MAX_MESSAGES: u32 = 256;

/// The device's work.
#[derive(Debug)]
pub(super) struct Ports {
    name: String,
    ports: Vec<Port>,
    sizes: Arc<Sizes>,
    /// What the driver was told last of the sizes.
    told: Vec<(u16, u16)>,
    control_receive: Option<PortQueue>,
    control_transmit: Option<ActiveQueue>,
    /// The driver knows of more than port 0.
    is_multiport: bool,
    strays: Throttle,
}

impl Ports {
    pub(super) fn new(name: String, ports: Vec<Port>, sizes: Arc<Sizes>) -> Self {
        let told = vec![(0, 0); ports.len()];
        Self {
            name,
            ports,
            sizes,
            told,
            control_receive: None,
            control_transmit: None,
            is_multiport: false,
            strays: Throttle::new(),
        }
    }

    /// Whether a port's driver wants input: Linux throws away what comes before a program has opened the port.
    fn takes_input(is_multiport: bool, port: &Port) -> bool {
        !is_multiport || port.is_open
    }

    /// Takes control messages of the driver's.
    fn take_messages(&mut self, waits: &mut Waits) -> Result<(), QueueError> {
        let Some(mut queue) = self.control_transmit.take() else { return Ok(()) };
        let result = self.take_messages_from(&mut queue, waits);
        self.control_transmit = Some(queue);
        result
    }

    fn take_messages_from(&mut self, queue: &mut ActiveQueue, waits: &mut Waits) -> Result<(), QueueError> {
        for _ in 0..queue.begin()? {
            let Some((head, usable)) = queue.take()? else { break };
            let message: Option<Message> = if usable.is_ok() { queue.take_header() } else { None };
            let is_fine = message.is_some_and(|message| self.take_message(message));
            if !is_fine && let Some(times) = self.strays.hit() {
                tracing::debug!(device = self.name, times, "a control message makes no sense: {message:x?}");
            }
            queue.give_back(head, 0, 0)?;
        }
        if queue.end()? {
            waits.again(spec::CONTROL_TRANSMIT);
        }
        Ok(())
    }

    /// Takes one message (§5.3.6.2). `false`: it makes no sense, and nothing has happened.
    fn take_message(&mut self, message: Message) -> bool {
        let (id, event, value) = spec::parse(message);
        if !self.is_multiport {
            return false;
        }
        if event == spec::DEVICE_READY {
            for port in self.ports.iter_mut().filter(|_| value == 1) {
                (port.is_ready, port.is_open) = (false, false);
                port.due = Due { add: true, ..Due::default() };
            }
            return value <= 1;
        }
        let Some(at) = usize::try_from(id).ok() else { return false };
        let Some(port) = self.ports.get_mut(at) else { return false };
        match (event, value) {
            (spec::PORT_READY, 1) => {
                port.is_ready = true;
                let size = self.sizes.get(at);
                let due = Due { add: false, console: at == 0, name: port.name.is_some(), open: true, size: false };
                port.due = Due { size: size != (0, 0), ..due };
            }
            (spec::PORT_READY, _) => {
                tracing::debug!(device = self.name, port = id, "the driver can't have it");
                (port.is_ready, port.is_open, port.due) = (false, false, Due::default());
            }
            (spec::PORT_OPEN, 0 | 1) if port.is_ready => port.is_open = value == 1,
            _ => return false,
        }
        true
    }

    /// Sends control messages to the driver, as far as it has given buffers.
    fn deliver(&mut self, waits: &mut Waits) -> Result<(), QueueError> {
        let Some(receive) = &mut self.control_receive else { return Ok(()) };
        let mut turns = 0..MAX_MESSAGES;
        for (index, port) in (0..).zip(&mut self.ports) {
            // A buffer may be too small, and there may be another one at once: others have their turn before that.
            while let Some((bytes, rest)) = next_message(index, port, &self.sizes) {
                if turns.next().is_none() {
                    waits.again(spec::CONTROL_RECEIVE);
                    return receive.announce();
                }
                if !receive.has_room()? {
                    if receive.wait()? {
                        waits.again(spec::CONTROL_RECEIVE);
                    }
                    return Ok(());
                }
                if receive.put(&bytes)? {
                    port.due = rest;
                }
            }
        }
        receive.announce()
    }

    /// Tells the driver of sizes that have changed.
    fn tell_sizes(&mut self) {
        for (at, (port, told)) in self.ports.iter_mut().zip(&mut self.told).enumerate() {
            let size = self.sizes.get(at);
            if size == *told {
                continue;
            }
            if self.is_multiport {
                port.due.size = port.is_ready;
            } else if at == 0 {
                let Some(queue) = port.receive.as_ref().or(port.transmit.as_ref()) else { continue };
                queue.notifier().config_changed();
            }
            *told = size;
        }
    }
}

/// What a port's driver is to be told next, and what is left then.
fn next_message(index: u32, port: &Port, sizes: &Sizes) -> Option<(Vec<u8>, Due)> {
    let mut rest = port.due;
    let plain = |event| spec::message(index, event, 1).to_vec();
    let with = |event, more: &[u8]| [&spec::message(index, event, 1), more].concat();
    let bytes = if std::mem::take(&mut rest.add) {
        plain(spec::DEVICE_ADD)
    } else if std::mem::take(&mut rest.console) {
        plain(spec::CONSOLE_PORT)
    } else if std::mem::take(&mut rest.name) {
        with(spec::PORT_NAME, port.name.as_deref().unwrap_or_default().as_bytes())
    } else if std::mem::take(&mut rest.open) {
        plain(spec::PORT_OPEN)
    } else if std::mem::take(&mut rest.size) {
        let (columns, rows) = sizes.get(usize::try_from(index).ok()?);
        with(spec::RESIZE, &[columns.to_le_bytes(), rows.to_le_bytes()].concat())
    } else {
        return None;
    };
    Some((bytes, rest))
}

impl Service for Ports {
    fn begin(&mut self, waits: &mut Waits) {
        for port in &mut self.ports {
            port.begin(waits);
        }
    }

    fn start(&mut self, queue: ActiveQueue, features: u64, _: &mut Waits) {
        self.is_multiport = features & spec::F_MULTIPORT != 0;
        match Role::of(queue.index()) {
            Role::ControlReceive => self.control_receive = Some(PortQueue::new(queue)),
            Role::ControlTransmit => self.control_transmit = Some(queue),
            Role::Receive(port) => {
                if let Some(port) = self.ports.get_mut(port) {
                    port.receive = Some(PortQueue::new(queue));
                }
            }
            Role::Transmit(port) => {
                if let Some(port) = self.ports.get_mut(port) {
                    port.transmit = Some(PortQueue::new(queue));
                }
            }
        }
    }

    fn stop(&mut self, index: u16, waits: &mut Waits) -> Option<QueueState> {
        match Role::of(index) {
            Role::ControlReceive => Some(self.control_receive.take()?.into_state()),
            Role::ControlTransmit => Some(self.control_transmit.take()?.into_state()),
            Role::Receive(port) => Some(self.ports.get_mut(port)?.receive.take()?.into_state()),
            Role::Transmit(port) => {
                let port = self.ports.get_mut(port)?;
                port.put_out_last(waits);
                Some(port.transmit.take()?.into_state())
            }
        }
    }

    fn serve(&mut self, event: Event, waits: &mut Waits) -> Result<(), QueueError> {
        match event {
            Event::Queue(index) => match Role::of(index) {
                Role::ControlTransmit => self.take_messages(waits)?,
                // Looked at before the thread sleeps.
                Role::ControlReceive => {}
                Role::Receive(at) => {
                    let Some(port) = self.ports.get_mut(at) else { return Ok(()) };
                    port.feed_again(Self::takes_input(self.is_multiport, port), waits)?;
                }
                Role::Transmit(at) => {
                    let Some(port) = self.ports.get_mut(at) else { return Ok(()) };
                    port.put_out(waits)?;
                }
            },
            Event::Ready { token, ready } => {
                let Some((at, which)) = Port::of_token(token) else { return Ok(()) };
                let Some(port) = self.ports.get_mut(at) else { return Ok(()) };
                if let Some((columns, rows)) = port.take_ready(which, ready, waits)? {
                    self.sizes.set(at, columns, rows);
                }
            }
            Event::Time => {
                let now = Instant::now();
                for port in &mut self.ports {
                    port.time(now, waits)?;
                }
            }
            Event::Poked => {}
        }
        Ok(())
    }

    fn finish(&mut self, waits: &mut Waits) -> Result<(), QueueError> {
        self.tell_sizes();
        self.deliver(waits)?;
        for port in &mut self.ports {
            let takes_input = Self::takes_input(self.is_multiport, port);
            port.settle(takes_input, waits)?;
        }
        waits.wake_at(self.ports.iter().filter_map(Port::alarm).min());
        Ok(())
    }

    fn reset(&mut self, _: &mut Waits) {
        let Self { name: _, ports, sizes: _, told, control_receive, control_transmit, is_multiport, strays: _ } = self;
        (*control_receive, *control_transmit, *is_multiport) = (None, None, false);
        told.fill((0, 0));
        ports.iter_mut().for_each(Port::reset);
    }
}
