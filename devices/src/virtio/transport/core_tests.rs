// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::sync::Mutex;

use super::super::super::device::StartError;
use super::*;
use crate::virtio::mock::{MockDriver, ram};

use status::{ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};

/// What a transport asked of its device.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Attach,
    Start(u16, u64, QueueState),
    RequestStop(u16),
    Stop(u16),
    Reset,
}

#[derive(Debug)]
struct Recorder(Arc<Mutex<Vec<Call>>>, Option<QueueState>);

impl VirtioDevice for Recorder {
    fn device_type(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        1 << 3
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16, 32]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }
    fn attach(&mut self, _: &Arc<Notifier>) {
        self.0.lock().unwrap().push(Call::Attach);
    }
    fn start_queue(&mut self, index: u16, resources: QueueResources, features: u64) -> Result<(), StartError> {
        self.0.lock().unwrap().push(Call::Start(index, features, resources.queue.state()));
        Ok(())
    }
    fn request_stop(&mut self, index: u16) {
        self.0.lock().unwrap().push(Call::RequestStop(index));
    }
    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.0.lock().unwrap().push(Call::Stop(index));
        self.1.clone()
    }
    fn reset(&mut self) {
        self.0.lock().unwrap().push(Call::Reset);
    }
}

#[derive(Debug)]
struct Nobody;

impl DeviceInterrupt for Nobody {
    fn queue(&self, _: u16) {}
    fn config(&self) {}
}

const NEW: QueueState = QueueState { next_avail: 0, next_used: 0, in_flight: Vec::new() };

/// Where the recorder says that its queues have stopped.
fn stopped() -> QueueState {
    QueueState { next_avail: 7, next_used: 5, in_flight: vec![2, 9] }
}

const FEATURES: u64 = features::VERSION_1 | features::RING_EVENT_IDX | 1 << 3;

fn core() -> (Core, Arc<Mutex<Vec<Call>>>) {
    core_that_stops_at(Some(stopped()))
}

fn core_that_stops_at(state: Option<QueueState>) -> (Core, Arc<Mutex<Vec<Call>>>) {
    let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
    let core = Core::new(Box::new(Recorder(Arc::clone(&calls), state)), ram(0x10_0000), Arc::new(Nobody)).unwrap();
    assert_eq!(std::mem::take(&mut *calls.lock().unwrap()), [Call::Attach]);
    (core, calls)
}

fn accept(core: &mut Core, accepted: u64) {
    core.set_driver_features(0, accepted as u32);
    core.set_driver_features(1, (accepted >> 32) as u32);
}

fn negotiate(core: &mut Core) {
    core.set_status(ACKNOWLEDGE);
    core.set_status(ACKNOWLEDGE | DRIVER);
    accept(core, FEATURES);
    core.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

const ALL: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

fn run(core: &mut Core) {
    negotiate(core);
    let driver = MockDriver::new(&ram(0x10_0000), 0x1000, 16);
    core.configure_queue(1, |queue| *queue = driver.config);
    core.set_queue_ready(1, true);
    core.set_status(ALL);
}

#[test]
fn a_driver_that_follows_the_specification_gets_its_queues() {
    let (mut core, calls) = core();
    run(&mut core);
    assert_eq!(core.status(), ALL);
    assert_eq!(*calls.lock().unwrap(), [Call::Start(1, FEATURES, NEW)]);
    assert_eq!(core.illegal_writes(), 0);
}

#[test]
fn the_order_of_status_bits_is_enforced() {
    for value in [DRIVER, FEATURES_OK, DRIVER_OK, ACKNOWLEDGE | FEATURES_OK, ACKNOWLEDGE | DRIVER | DRIVER_OK, 0x30] {
        let (mut core, calls) = core();
        core.set_status(value);
        assert_eq!(core.status(), 0, "{value:#x}");
        assert!(calls.lock().unwrap().is_empty());
    }
    let (mut core, _) = core();
    run(&mut core);
    core.set_status(ACKNOWLEDGE);
    assert_eq!(core.status(), ALL, "bits are only cleared by a reset");
    core.set_status(ALL | FAILED);
    assert_eq!(core.status(), ALL | FAILED);
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    for accepted in [0, 1 << 3, FEATURES | 1, FEATURES | 1 << 63, u64::MAX] {
        let (mut core, _) = core();
        core.set_status(ACKNOWLEDGE | DRIVER);
        accept(&mut core, accepted);
        core.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(core.status(), ACKNOWLEDGE | DRIVER, "{accepted:#x}");
        core.set_status(ALL);
        assert_eq!(core.status() & DRIVER_OK, 0, "{accepted:#x}");
        // The driver may try again with less.
        accept(&mut core, FEATURES);
        core.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(core.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK, "{accepted:#x}");
    }
}

#[test]
fn what_was_accepted_can_be_read_back_until_a_reset() {
    let (mut core, _) = core();
    assert_eq!((core.queue_count(), core.driver_features()), (2, 0));
    negotiate(&mut core);
    assert_eq!(core.driver_features(), FEATURES);
    accept(&mut core, 0);
    assert_eq!(core.driver_features(), FEATURES);
    core.set_status(0);
    assert_eq!(core.driver_features(), 0);
}

#[test]
fn features_freeze_when_they_are_agreed_upon() {
    let (mut core, calls) = core();
    accept(&mut core, u64::MAX);
    negotiate(&mut core);
    accept(&mut core, 0);
    core.set_driver_features(2, u32::MAX);
    let driver = MockDriver::new(&ram(0x10_0000), 0x1000, 16);
    core.configure_queue(0, |queue| *queue = driver.config);
    core.set_queue_ready(0, true);
    core.set_status(ALL);
    assert_eq!(*calls.lock().unwrap(), [Call::Start(0, FEATURES, NEW)]);
}

#[test]
fn a_queue_freezes_when_it_is_ready_and_when_it_runs() {
    let (mut core, _) = core();
    run(&mut core);
    let before = core.queue_config(1);
    core.configure_queue(1, |queue| queue.size = 2);
    core.configure_queue(0, |queue| queue.size = 2);
    core.set_queue_ready(1, false);
    core.set_queue_ready(0, true);
    core.configure_queue(7, |queue| queue.size = 2);
    core.set_queue_ready(u32::MAX, true);
    core.notify(9);
    assert_eq!((core.queue_config(1), core.queue_ready(1), core.queue_ready(0)), (before, true, false));
    assert_eq!(core.queue_config(0).size, 16);
    assert_eq!(core.illegal_writes(), 7);
}

#[test]
fn a_queue_that_is_no_queue_asks_for_a_reset_and_a_reset_revives() {
    let (mut core, calls) = core();
    negotiate(&mut core);
    core.configure_queue(0, |queue| queue.size = 3);
    core.set_queue_ready(0, true);
    core.set_status(ALL);
    assert_eq!(core.status(), ALL | DEVICE_NEEDS_RESET);
    assert!(calls.lock().unwrap().is_empty());
    core.set_status(0);
    assert_eq!((core.status(), core.queue_ready(0), core.queue_config(0).size), (0, false, 16));
    assert_eq!(calls.lock().unwrap().drain(..).collect::<Vec<_>>(), [Call::Reset]);
    run(&mut core);
    assert_eq!(core.status(), ALL);
    assert_eq!(*calls.lock().unwrap(), [Call::Start(1, FEATURES, NEW)]);
}

#[test]
fn driver_ok_without_any_queue_is_allowed() {
    let (mut core, calls) = core();
    negotiate(&mut core);
    core.set_status(ALL);
    assert_eq!(core.status(), ALL);
    assert!(calls.lock().unwrap().is_empty());
}

#[test]
fn a_queue_goes_on_where_it_stopped_and_starts_anew_after_a_reset() {
    let (mut core, calls) = core();
    core.resume();
    run(&mut core);
    core.resume();
    assert_eq!(take(&calls), [Call::Start(1, FEATURES, NEW)]);
    assert_eq!(core.stop(), [(1, Some(stopped()))]);
    assert_eq!(core.stop(), [(1, Some(stopped()))], "it stands where it stood");
    assert_eq!(take(&calls), [Call::RequestStop(1), Call::Stop(1)]);
    core.resume();
    assert_eq!(take(&calls), [Call::Start(1, FEATURES, stopped())]);
    core.set_status(0);
    assert_eq!(take(&calls), [Call::RequestStop(1), Call::Stop(1), Call::Reset]);
    core.resume();
    assert_eq!((take(&calls), core.stop()), (vec![], vec![]));
    core.resume();
    run(&mut core);
    assert_eq!(take(&calls), [Call::Start(1, FEATURES, NEW)]);
}

#[test]
fn queues_stop_and_start_one_by_one() {
    let (mut core, calls) = core();
    core.start_queue(0);
    negotiate(&mut core);
    for (index, base) in [(0, 0x1000), (1, 0x2000)] {
        let driver = MockDriver::new(&ram(0x10_0000), base, 16);
        core.configure_queue(index, |queue| *queue = driver.config);
        core.set_queue_ready(index, true);
        core.start_queue(index as u16);
    }
    assert_eq!(take(&calls), [], "before DRIVER_OK there is none");
    core.set_status(ALL);
    take(&calls);
    assert_eq!(core.stop_queue(1), Some(stopped()));
    assert_eq!(core.stop_queue(1), Some(stopped()));
    assert_eq!((core.stop_queue(2), core.stop_queue(u16::MAX)), (None, None));
    assert_eq!(take(&calls), [Call::Stop(1)], "queue 0 runs");
    core.start_queue(1);
    core.start_queue(1);
    core.start_queue(2);
    assert_eq!(take(&calls), [Call::Start(1, FEATURES, stopped())]);
    core.stop_queue(0);
    assert_eq!(take(&calls), [Call::Stop(0)]);
    core.set_bus_master(false);
    core.set_bus_master(true);
    core.resume();
    let turned = [Call::RequestStop(1), Call::Stop(1), Call::Start(1, FEATURES, stopped())];
    assert_eq!(take(&calls), turned, "queue 0 stays where it is");
    assert_eq!(core.stop(), [(0, Some(stopped())), (1, Some(stopped()))]);
    assert_eq!(take(&calls), [Call::RequestStop(1), Call::Stop(1)]);
    core.start_queue(0);
    assert_eq!(take(&calls), [], "the device is stopped");
    core.resume();
    assert_eq!(take(&calls), [0, 1].map(|index| Call::Start(index, FEATURES, stopped())));
}

#[test]
fn no_queue_starts_while_the_device_is_stopped() {
    let (mut core, calls) = core();
    assert_eq!(core.stop(), []);
    run(&mut core);
    assert_eq!((core.status(), take(&calls)), (ALL, vec![]));
    core.set_status(0);
    run(&mut core);
    assert_eq!(take(&calls), [Call::Reset]);
    core.resume();
    assert_eq!(take(&calls), [Call::Start(1, FEATURES, NEW)]);
}

#[test]
fn queues_run_only_with_bus_master_on_and_the_device_not_stopped() {
    let (mut core, calls) = core();
    core.set_bus_master(false);
    run(&mut core);
    assert_eq!((core.status(), take(&calls)), (ALL, vec![]), "DRIVER_OK comes too early");
    core.set_bus_master(true);
    assert_eq!(take(&calls), [Call::Start(1, FEATURES, NEW)]);
    core.set_bus_master(true);
    assert_eq!(take(&calls), []);
    core.set_bus_master(false);
    assert_eq!(take(&calls), [Call::RequestStop(1), Call::Stop(1)]);
    assert_eq!(core.stop(), [(1, Some(stopped()))], "its state is there");
    core.set_bus_master(true);
    core.set_bus_master(false);
    core.resume();
    assert_eq!(take(&calls), [], "either of them is enough");
    core.start_queue(1);
    assert_eq!(take(&calls), []);
    core.set_bus_master(true);
    assert_eq!(take(&calls), [Call::Start(1, FEATURES, stopped())]);
    core.set_bus_master(false);
    core.set_status(0);
    run(&mut core);
    assert_eq!(take(&calls), [Call::RequestStop(1), Call::Stop(1), Call::Reset], "a reset doesn't turn it on");
}

#[test]
fn a_driver_that_turns_bus_master_to_and_fro_gets_no_more_starts_than_by_resets() {
    let (mut core, calls) = core();
    let begin = Instant::now();
    run(&mut core);
    for _ in 0..STARTS.1 + 40 {
        core.set_bus_master(false);
        core.set_bus_master(true);
    }
    let most = STARTS.1 + 1 + STARTS.0 * (begin.elapsed().as_millis() as u64 + 1) / 1000;
    let calls = take(&calls);
    let starts = calls.iter().filter(|call| matches!(call, Call::Start(..))).count() as u64;
    let stops = calls.iter().filter(|call| matches!(call, Call::Stop(_))).count() as u64;
    assert_eq!((starts, stops), (STARTS.1 + 41, STARTS.1 + 40));
    assert!(starts <= most, "{starts} starts, and {most} at most");
}

#[test]
fn a_queue_whose_state_is_lost_asks_for_a_reset_and_does_not_start_over() {
    let (mut core, calls) = core_that_stops_at(None);
    run(&mut core);
    assert_eq!(core.stop(), [(1, None)]);
    take(&calls);
    core.resume();
    assert_eq!((core.status(), take(&calls)), (ALL | DEVICE_NEEDS_RESET, vec![]));
    core.set_status(0);
    run(&mut core);
    assert_eq!((core.status(), take(&calls)), (ALL, vec![Call::Reset, Call::Start(1, FEATURES, NEW)]));
}

fn take(calls: &Mutex<Vec<Call>>) -> Vec<Call> {
    std::mem::take(&mut *calls.lock().unwrap())
}
