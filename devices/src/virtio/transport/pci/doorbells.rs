// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The doorbells of a device: bound to the addresses at which the guest can ring them, wherever it puts the BAR.

use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::super::DoorbellBinder;
use super::NOTIFY_OFF_MULTIPLIER;
use crate::throttle::Throttle;

/// The queue whose doorbell is at `offset` into the notification region; between doorbells there is none.
pub(super) fn queue_at(offset: u64) -> u32 {
    let queue = offset.is_multiple_of(NOTIFY_OFF_MULTIPLIER).then_some(offset / NOTIFY_OFF_MULTIPLIER);
    queue.and_then(|queue| u32::try_from(queue).ok()).unwrap_or(u32::MAX)
}

#[derive(Debug)]
pub(super) struct Doorbells {
    binder: Arc<dyn DoorbellBinder>,
    events: Vec<EventFd>,
    /// Where each is bound.
    bound: Mutex<Vec<Option<u64>>>,
    failed: Throttle,
}

impl Doorbells {
    /// Doorbells in the order of the queues, none of them bound.
    pub(super) fn new(binder: Arc<dyn DoorbellBinder>, events: Vec<EventFd>) -> Self {
        let bound = Mutex::new(vec![None; events.len()]);
        Self { binder, events, bound, failed: Throttle::new() }
    }

    /// Takes all doorbells from where they are, and binds them to the notification region at `start`, if it is anywhere.
    /// One that can't be bound is rung by way of its register.
    pub(super) fn move_to(&self, start: Option<u64>) {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        for ((event, at), queue) in self.events.iter().zip(&mut *bound).zip(0u64..) {
            if let Some(old) = *at {
                if let Err(error) = self.binder.unbind(old, event) {
                    if let Some(times) = self.failed.hit() {
                        tracing::warn!(times, "a doorbell stays at {old:#x}: {error}");
                    }
                    // It is tried again with the next move, and bound nowhere else before.
                    continue;
                }
                *at = None;
            }
            let offset = queue.saturating_mul(NOTIFY_OFF_MULTIPLIER);
            let Some(address) = start.and_then(|start| start.checked_add(offset)) else { continue };
            match self.binder.bind(address, event) {
                Ok(()) => *at = Some(address),
                Err(error) => {
                    if let Some(times) = self.failed.hit() {
                        tracing::warn!(times, "a doorbell at {address:#x} is slow, it was not bound: {error}");
                    }
                }
            }
        }
    }
}
