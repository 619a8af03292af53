// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device: what it offers, its configuration space, and its queues.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use super::card::{Card, NetControl};
use super::opened::Opened;
use super::options::{Backend, MAX_QUEUE_PAIRS, MAX_QUEUE_SIZE, MIN_MTU, MIN_QUEUE_SIZE, NetError, NetOptions};
use super::pair::Role;
use super::port::Port;
use super::spec;
use super::worker::Worker;
use crate::virtio::device::{QueueResources, StartError, VirtioDevice, copy_config};
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::QueueState;

/// A network card, each queue pair of which is served by a thread of its own.
#[derive(Debug)]
pub struct Net {
    card: Arc<Card>,
    queue_sizes: Vec<u16>,
    /// The queues that run.
    queues: Vec<Option<Running>>,
    pairs: Vec<Slot>,
}

/// A queue pair.
#[derive(Debug)]
struct Slot {
    port: Arc<Mutex<Port>>,
    worker: Option<Worker>,
}

/// Where a queue runs.
#[derive(Debug)]
struct Running {
    pair: u16,
    role: Role,
    /// It was asked to stop, and gives its state here.
    stopping: Option<Receiver<QueueState>>,
}

impl Net {
    /// A card on these backends, one for each queue pair. `name` stands in log lines and names the threads.
    ///
    /// # Errors
    ///
    /// When the backends or the options are none of a card.
    pub fn new(name: impl Into<String>, backends: Vec<Backend>, options: NetOptions) -> Result<Self, NetError> {
        let NetOptions { queue_size, mtu, .. } = options;
        let count = match backends.as_slice() {
            [Backend::VhostUser { pairs, .. }] => usize::from(*pairs),
            _ => backends.len(),
        };
        let pairs = u16::try_from(count).ok().filter(|pairs| (1..=MAX_QUEUE_PAIRS).contains(pairs));
        let pairs = pairs.ok_or(NetError::BadQueuePairs(count))?;
        if !queue_size.is_power_of_two() || !(MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&queue_size) {
            return Err(NetError::BadQueueSize(queue_size));
        }
        if let Some(mtu) = mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(NetError::BadMtu(mtu));
        }
        let Opened { ports, tap, host_offloads, vhost } = Opened::new(backends)?;
        if vhost.is_some() {
            let wanted = [
                (options.rx_limiters.is_empty() && options.tx_limiters.is_empty(), "a rate limit"),
                (options.antispoof.is_none(), "antispoof"),
            ];
            if let Some((_, what)) = wanted.iter().find(|(is_absent, _)| !is_absent) {
                return Err(NetError::NotEnforced(what));
            }
        }
        let card = Card::new(name.into(), options, pairs, tap, host_offloads, vhost);
        let card = card.map_err(|source| NetError::SetUp { what: "eventfds", source })?;
        let queues = usize::from(pairs).saturating_mul(2).saturating_add(1);
        let slot = |port| Slot { port: Arc::new(Mutex::new(port)), worker: None };
        Ok(Self {
            card: Arc::new(card),
            queue_sizes: vec![queue_size; queues],
            queues: std::iter::repeat_with(|| None).take(queues).collect(),
            pairs: ports.into_iter().map(slot).collect(),
        })
    }

    /// The host's way to this card while a VM has it.
    pub fn control(&self) -> NetControl {
        NetControl(Arc::downgrade(&self.card))
    }

    /// Which pair a queue belongs to, and as what (virtio 1.3 §5.1.2): without MQ there is one pair, and the control queue
    /// comes right behind it.
    fn place(&self, index: u16, features: u64) -> Option<(u16, Role)> {
        let pairs = if features & spec::F_MQ == 0 { 1 } else { self.card.pairs };
        let pair = index / 2;
        match (index % 2, pair < pairs) {
            (0, true) => Some((pair, Role::Receive)),
            (_, true) => Some((pair, Role::Transmit)),
            (0, false) if pair == pairs && features & spec::F_CTRL_VQ != 0 => Some((0, Role::Control)),
            _ => None,
        }
    }

    fn running(&mut self, index: u16) -> Option<&mut Running> {
        self.queues.get_mut(usize::from(index))?.as_mut()
    }

    /// The configuration space (virtio 1.3 §5.1.4). What isn't offered is zero.
    fn config(&self) -> [u8; spec::CONFIG_SIZE] {
        let mut config = [0; spec::CONFIG_SIZE];
        let mut set = |at: usize, value: &[u8]| {
            for (to, from) in config.iter_mut().skip(at).zip(value) {
                *to = *from;
            }
        };
        set(spec::CONFIG_MAC, &self.card.mac().bytes());
        let status = if self.card.link() { spec::S_LINK_UP } else { 0 };
        set(spec::CONFIG_STATUS, &status.to_le_bytes());
        if self.card.pairs > 1 {
            set(spec::CONFIG_MAX_QUEUE_PAIRS, &self.card.pairs.to_le_bytes());
        }
        if let Some(mtu) = self.card.options.mtu {
            set(spec::CONFIG_MTU, &mtu.to_le_bytes());
        }
        config
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        spec::DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let when = |condition: bool, feature: u64| if condition { feature } else { 0 };
        let offloads = self.card.host_offloads;
        let changes_offloads = self.card.vhost.is_none_or(|vhost| vhost.changes_offloads);
        spec::F_MAC
            | spec::F_STATUS
            | self.card.vhost.map_or(spec::F_MRG_RXBUF, |vhost| vhost.features)
            | spec::F_CTRL_VQ
            | spec::F_CTRL_RX
            | spec::F_CTRL_MAC_ADDR
            | offloads
            | when(offloads & spec::GUEST_OFFLOADS != 0 && changes_offloads, spec::F_CTRL_GUEST_OFFLOADS)
            | when(self.card.options.mtu.is_some(), spec::F_MTU)
            | when(self.card.pairs > 1, spec::F_MQ)
    }

    fn missing_features(&self) -> u64 {
        self.card.vhost.map_or(0, |vhost| vhost.missing)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        copy_config(&config, offset, data);
    }

    fn attach(&mut self, notifier: &Arc<Notifier>) {
        self.card.attach(notifier);
    }

    fn start_queue(&mut self, index: u16, resources: QueueResources, features: u64) -> Result<(), StartError> {
        let (pair, role) = self.place(index, features).ok_or(StartError::NoSuchQueue { index })?;
        let queue = self.queues.get_mut(usize::from(index)).ok_or(StartError::NoSuchQueue { index })?;
        if queue.is_some() {
            return Err(StartError::Running { index });
        }
        let slot = self.pairs.get_mut(usize::from(pair)).ok_or(StartError::NoSuchQueue { index })?;
        let worker = match slot.worker.take().filter(|worker| !worker.has_ended()) {
            Some(worker) => worker,
            None => Worker::start(pair, self.card.clone(), slot.port.clone(), resources.notifier.clone())
                .map_err(|source| StartError::Host { index, source })?,
        };
        self.card.set_features(features);
        worker.start_queue(role, index, resources, features);
        slot.worker = Some(worker);
        *queue = Some(Running { pair, role, stopping: None });
        Ok(())
    }

    fn request_stop(&mut self, index: u16) {
        let Some((pair, role)) = self.running(index).filter(|queue| queue.stopping.is_none()).map(|q| (q.pair, q.role))
        else {
            return;
        };
        let worker = self.pairs.get(usize::from(pair)).and_then(|slot| slot.worker.as_ref());
        let state = worker.map(|worker| worker.stop_queue(role));
        if let Some(queue) = self.running(index) {
            queue.stopping = state;
        }
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.request_stop(index);
        self.queues.get_mut(usize::from(index))?.take()?.stopping?.recv().ok()
    }

    fn reset(&mut self) {
        let Self { card, queue_sizes: _, queues: _, pairs: _ } = self;
        card.reset();
    }
}
