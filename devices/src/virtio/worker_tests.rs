// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::virtio::mock::{Interrupts, MockDriver, ram, writable};
use crate::virtio::queue::Queue;

/// What has come to a service, one byte each.
const POKED: u8 = b'p';
const TIME: u8 = b't';
const READY: u8 = b'r';
const RESET: u8 = b'x';
/// A byte from the host that makes the service panic.
const PANIC: u8 = b'!';

/// Gives every chain back with its queue's index as its length, and writes down in a pipe what else comes.
#[derive(Debug)]
struct Echo {
    queues: Vec<ActiveQueue>,
    host: UnixStream,
}

impl Service for Echo {
    fn begin(&mut self, waits: &mut Waits) {
        waits.watch(&self.host, FIRST_TOKEN, EventSet::IN).unwrap();
    }

    fn start(&mut self, queue: ActiveQueue, _: u64, _: &mut Waits) {
        self.queues.push(queue);
    }

    fn stop(&mut self, index: u16, _: &mut Waits) -> Option<QueueState> {
        let at = self.queues.iter().position(|queue| queue.index() == index)?;
        Some(self.queues.remove(at).into_state())
    }

    fn serve(&mut self, event: Event, waits: &mut Waits) -> Result<(), QueueError> {
        match event {
            Event::Queue(index) => {
                let queue = self.queues.iter_mut().find(|queue| queue.index() == index).unwrap();
                for _ in 0..queue.begin()? {
                    let Some((head, _)) = queue.take()? else { break };
                    queue.give_back(head, index.into(), 0)?;
                }
                if queue.end()? {
                    waits.again(index);
                }
            }
            Event::Ready { token, ready } => {
                assert!(token == FIRST_TOKEN && ready == EventSet::IN);
                let mut byte = [0];
                self.host.read_exact(&mut byte).unwrap();
                assert_ne!(byte, [PANIC], "as the test wants it");
                waits.wake_at(Some(Instant::now()));
                self.host.write_all(&[READY]).unwrap();
            }
            Event::Poked => self.host.write_all(&[POKED]).unwrap(),
            Event::Time => self.host.write_all(&[TIME]).unwrap(),
        }
        Ok(())
    }

    fn reset(&mut self, _: &mut Waits) {
        self.queues.clear();
        self.host.write_all(&[RESET]).unwrap();
    }
}

struct Rig {
    worker: Worker<Echo>,
    wake: Wake,
    host: UnixStream,
    drivers: [MockDriver; 2],
    doorbells: [EventFd; 2],
    used: EventFd,
    notifier: Arc<Notifier>,
}

impl Rig {
    fn new() -> Self {
        let mem = ram(0x1_0000);
        let (host, service) = UnixStream::pair().unwrap();
        let wake = Wake::new().unwrap();
        let echo = Echo { queues: Vec::new(), host: service };
        let used = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        let notifier = Arc::new(Notifier::new(Arc::new(Interrupts(used.try_clone().unwrap()))));
        Self {
            worker: Worker::new("echo".into(), echo, 2, wake.clone()),
            wake,
            host,
            drivers: [0x1000, 0x2000].map(|base| MockDriver::new(&mem, base, 16)),
            doorbells: [0, 1].map(|_| EventFd::new(libc::EFD_CLOEXEC).unwrap()),
            used,
            notifier,
        }
    }

    fn start(&mut self, index: u16, state: QueueState) -> Result<(), StartError> {
        let driver = &self.drivers[usize::from(index)];
        let queue = Queue::new(driver.config, 16, 0, state, driver.mem.clone()).unwrap();
        let doorbell = self.doorbells[usize::from(index)].try_clone().unwrap();
        self.worker.start_queue(index, QueueResources { queue, doorbell, notifier: self.notifier.clone() }, 0)
    }

    fn submit(&mut self, index: u16) {
        self.drivers[usize::from(index)].submit(&[writable(0x8000, 8)]);
    }

    fn wait_used(&mut self, index: u16) -> u32 {
        loop {
            if let Some((_, written)) = self.drivers[usize::from(index)].take_used() {
                return written;
            }
            self.used.read().unwrap();
        }
    }

    fn hear(&mut self) -> u8 {
        let mut byte = [0];
        self.host.read_exact(&mut byte).unwrap();
        byte[0]
    }
}

#[test]
fn what_is_there_before_a_queue_starts_and_what_is_rung_for_is_served() {
    let mut rig = Rig::new();
    rig.submit(1);
    rig.start(1, QueueState::default()).unwrap();
    assert_eq!(rig.wait_used(1), 1);
    rig.start(0, QueueState::default()).unwrap();
    assert!(matches!(rig.start(0, QueueState::default()), Err(StartError::Running { index: 0 })));
    for index in [0, 1, 0] {
        rig.submit(index);
        rig.doorbells[usize::from(index)].write(1).unwrap();
        assert_eq!(rig.wait_used(index), u32::from(index));
    }
    let state = rig.worker.stop_queue(0).unwrap();
    assert_eq!((state.next_avail, state.next_used), (2, 2));
    assert!(rig.worker.stop_queue(0).is_none());
    rig.start(0, state).unwrap();
    rig.submit(0);
    rig.doorbells[0].write(1).unwrap();
    assert_eq!(rig.wait_used(0), 0);
}

#[test]
fn the_host_is_heard_while_a_queue_runs_and_not_before_nor_after() {
    let mut rig = Rig::new();
    rig.wake.poke();
    rig.host.write_all(b".").unwrap();
    rig.host.set_nonblocking(true).unwrap();
    assert!(rig.host.read(&mut [0]).is_err());
    rig.host.set_nonblocking(false).unwrap();
    rig.start(0, QueueState::default()).unwrap();
    assert_eq!([rig.hear(), rig.hear(), rig.hear()], [POKED, READY, TIME]);
    rig.worker.stop_queue(0).unwrap();
    rig.wake.poke();
    rig.host.write_all(b".").unwrap();
    // The answer to a command comes behind whatever the thread did before.
    rig.worker.reset();
    assert_eq!(rig.hear(), RESET);
    rig.start(0, QueueState::default()).unwrap();
    assert_eq!([rig.hear(), rig.hear(), rig.hear()], [POKED, READY, TIME]);
}

#[test]
fn a_ring_that_lies_stops_all_of_its_device_until_its_queues_start_again() {
    let mut rig = Rig::new();
    rig.start(0, QueueState::default()).unwrap();
    rig.start(1, QueueState::default()).unwrap();
    rig.drivers[0].set_avail_index(17);
    rig.doorbells[0].write(1).unwrap();
    while !rig.notifier.needs_reset() {
        rig.used.read().unwrap();
    }
    rig.submit(1);
    rig.doorbells[1].write(1).unwrap();
    for index in [0, 1] {
        let state = rig.worker.stop_queue(index).unwrap();
        assert_eq!((state.next_avail, state.next_used), (0, 0), "queue {index}");
    }
    rig.worker.reset();
    assert_eq!(rig.hear(), RESET);
    rig.start(1, QueueState::default()).unwrap();
    assert_eq!(rig.wait_used(1), 1);
}

#[test]
fn a_thread_that_panics_tells_the_driver_and_the_next_one_begins_anew() {
    let mut rig = Rig::new();
    rig.start(0, QueueState::default()).unwrap();
    rig.host.write_all(&[PANIC]).unwrap();
    while !rig.notifier.needs_reset() {
        rig.used.read().unwrap();
    }
    assert!(rig.worker.stop_queue(0).is_none());
    rig.worker.reset();
    rig.start(0, QueueState::default()).unwrap();
    assert_eq!(rig.hear(), RESET);
    rig.submit(0);
    rig.doorbells[0].write(1).unwrap();
    assert_eq!(rig.wait_used(0), 0);
}
