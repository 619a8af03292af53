// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the host wants of a balloon and knows of it.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use thiserror::Error;

use super::spec::{self, PAGE_SHIFT};
use super::statistics::Statistics;
use crate::virtio::notifier::Notifier;

/// Why a balloon can't be set so.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BalloonError {
    /// There is less RAM than that.
    #[error("a balloon of {asked} bytes is more than the machine's RAM: give at most {limit}")]
    BeyondRam {
        /// What was asked for, in bytes.
        asked: u64,
        /// The most that there can be, in bytes.
        limit: u64,
    },
    /// The host has no descriptor left.
    #[error("an eventfd can't be made: {0}")]
    Eventfd(#[source] io::Error),
    /// The driver was not told that it could be asked.
    #[error("the balloon can't ask for free pages: it was made without free page hinting")]
    NoHinting,
    /// The VM has ended.
    #[error("there is no balloon any more: the VM has ended")]
    Gone,
}

/// What the device, its thread and the host share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Pages of RAM, as many as can be counted here.
    ram: u32,
    /// Whether the guest can be asked for free pages.
    hinting: bool,
    /// How many pages the guest is to give (`num_pages`).
    target: AtomicU32,
    /// How many the guest says it has given (`actual`).
    actual: AtomicU32,
    /// What the guest is to do about free pages (`free_page_hint_cmd_id`).
    hints: AtomicU32,
    /// The number by which it was asked last. Linux takes a number that it had before for the same question.
    asked: AtomicU32,
    /// What the guest's free pages hold (`poison_val`).
    poison: AtomicU32,
    statistics: Mutex<Option<Statistics>>,
    /// Page numbers that were no page of RAM, or more than there may be in one request.
    ignored: AtomicU64,
    notifier: OnceLock<Arc<Notifier>>,
    /// One target at a time.
    changes: Mutex<()>,
}

fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes >> PAGE_SHIFT).unwrap_or(u32::MAX)
}

fn bytes(pages: u32) -> u64 {
    u64::from(pages) << PAGE_SHIFT
}

impl Shared {
    /// `ram` is how much of it there is, and `target` how much the guest is to give, in bytes.
    pub(super) fn new(ram: u64, target: u64, hinting: bool) -> Result<Self, BalloonError> {
        let this = Self {
            ram: pages(ram),
            hinting,
            target: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            hints: AtomicU32::new(spec::HINTS_STOP),
            asked: AtomicU32::new(spec::HINTS_DONE),
            poison: AtomicU32::new(0),
            statistics: Mutex::new(None),
            ignored: AtomicU64::new(0),
            notifier: OnceLock::new(),
            changes: Mutex::new(()),
        };
        this.set_target(target)?;
        Ok(this)
    }

    pub(super) fn attach(&self, notifier: &Arc<Notifier>) {
        // A device has one transport.
        let _ = self.notifier.set(notifier.clone());
    }

    fn set_target(&self, asked: u64) -> Result<u64, BalloonError> {
        let limit = bytes(self.ram);
        if asked > limit {
            return Err(BalloonError::BeyondRam { asked, limit });
        }
        let target = pages(asked);
        let guard = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(&self.target, target);
        drop(guard);
        Ok(bytes(target))
    }

    /// Changes a field of the configuration space, and tells the driver if that is news. One at a time.
    fn change(&self, field: &AtomicU32, value: u32) {
        if field.load(Ordering::Acquire) == value {
            return;
        }
        if let Some(notifier) = self.notifier.get() {
            notifier.config_changes();
        }
        field.store(value, Ordering::Release);
        if let Some(notifier) = self.notifier.get() {
            notifier.config_changed();
        }
    }

    /// Asks for the pages that are free now.
    fn ask_for_free_pages(&self) -> Result<(), BalloonError> {
        if !self.hinting {
            return Err(BalloonError::NoHinting);
        }
        let guard = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.asked.load(Ordering::Acquire).checked_add(1).unwrap_or(spec::HINTS_FIRST);
        self.asked.store(next, Ordering::Release);
        self.change(&self.hints, next);
        drop(guard);
        Ok(())
    }

    /// Whether `command` is the question that the guest is to answer now.
    pub(super) fn is_asked(&self, command: u32) -> bool {
        command >= spec::HINTS_FIRST && command == self.hints.load(Ordering::Acquire)
    }

    /// The guest has answered `command`, and may use all that it has hinted again. If another question has come meanwhile, it
    /// may so when it has answered that.
    pub(super) fn end_hints(&self, command: u32) {
        let guard = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_asked(command) {
            self.change(&self.hints, spec::HINTS_DONE);
        }
        drop(guard);
    }

    /// Whether free pages may become zeros as far as the driver knows, which tells what it expects in them (§5.5.6.7.2).
    pub(super) fn free_pages_hold_zeros(&self) -> bool {
        self.poison.load(Ordering::Acquire) == 0
    }

    /// The configuration space (§5.5.4), from `offset` on.
    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) {
        let fields = [
            (spec::NUM_PAGES, &self.target),
            (spec::ACTUAL, &self.actual),
            (spec::HINT_COMMAND, &self.hints),
            (spec::POISON, &self.poison),
        ];
        let config = fields.map(|(start, field)| (start, field.load(Ordering::Acquire).to_le_bytes()));
        for (place, to) in (0u64..).zip(data) {
            let at = offset.saturating_add(place);
            let found = config.iter().find_map(|(start, field)| {
                let index = usize::try_from(at.checked_sub(*start)?).ok()?;
                field.get(index)
            });
            *to = found.copied().unwrap_or(0);
        }
    }

    /// The driver writes `actual` or `poison_val`, or bytes of them, and nothing else.
    pub(super) fn write_config(&self, offset: u64, data: &[u8]) {
        for (start, field) in [(spec::ACTUAL, &self.actual), (spec::POISON, &self.poison)] {
            let mut bytes = field.load(Ordering::Acquire).to_le_bytes();
            for (place, byte) in (0u64..).zip(data) {
                let index = offset.saturating_add(place).checked_sub(start);
                let index = index.and_then(|index| usize::try_from(index).ok());
                if let Some(place) = index.and_then(|index| bytes.get_mut(index)) {
                    *place = *byte;
                }
            }
            field.store(u32::from_le_bytes(bytes), Ordering::Release);
        }
    }

    pub(super) fn note_ignored(&self, pages: u64) {
        self.ignored.fetch_add(pages, Ordering::Relaxed);
    }

    pub(super) fn set_statistics(&self, statistics: Statistics) {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some(statistics);
    }

    /// The driver has gone, and what it has said with it. What the host wants stays.
    pub(super) fn reset(&self) {
        let Self {
            ram: _,
            hinting: _,
            target: _,
            actual,
            hints,
            asked: _,
            poison,
            statistics,
            ignored: _,
            notifier: _,
            changes: _,
        } = self;
        for (field, value) in [(actual, 0), (hints, spec::HINTS_STOP), (poison, 0)] {
            field.store(value, Ordering::Release);
        }
        *statistics.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What a host can do with the balloon of a running VM, from any thread. It keeps nothing of the VM.
#[derive(Clone, Debug)]
pub struct BalloonControl(pub(super) Weak<Shared>);

impl BalloonControl {
    /// Asks the guest to have so many bytes in its balloon; gives that in whole pages of 4 KiB. The guest does so in its own
    /// time, as far as it can: [`Self::actual`] tells how far it is.
    ///
    /// # Errors
    ///
    /// When that is more than all RAM, or the VM has ended.
    pub fn set_target(&self, bytes: u64) -> Result<u64, BalloonError> {
        self.0.upgrade().ok_or(BalloonError::Gone)?.set_target(bytes)
    }

    /// How many bytes the guest is to have in its balloon; 0 once the VM has ended.
    pub fn target(&self) -> u64 {
        self.0.upgrade().map_or(0, |shared| bytes(shared.target.load(Ordering::Acquire)))
    }

    /// How many bytes the guest says that it has in its balloon, of its RAM; 0 once the VM has ended.
    pub fn actual(&self) -> u64 {
        self.0.upgrade().map_or(0, |shared| bytes(shared.actual.load(Ordering::Acquire).min(shared.ram)))
    }

    /// Asks the guest once for all pages that it doesn't use. The host has them as soon as the guest names them, and they are
    /// the guest's to use when it has named all: [`Self::is_asked_for_free_pages`] tells when that is. One that is asked again
    /// before begins anew.
    ///
    /// # Errors
    ///
    /// When the balloon was made without free page hinting, or the VM has ended.
    pub fn ask_for_free_pages(&self) -> Result<(), BalloonError> {
        self.0.upgrade().ok_or(BalloonError::Gone)?.ask_for_free_pages()
    }

    /// Whether the guest was asked for its free pages and hasn't named all of them.
    pub fn is_asked_for_free_pages(&self) -> bool {
        self.0.upgrade().is_some_and(|shared| shared.is_asked(shared.hints.load(Ordering::Acquire)))
    }

    /// What the guest has said last of its memory, if it has.
    pub fn statistics(&self) -> Option<Statistics> {
        self.0.upgrade()?.statistics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many pages the guest has named that were none of its RAM, or too many for one request: a sound driver names none.
    pub fn ignored_pages(&self) -> u64 {
        self.0.upgrade().map_or(0, |shared| shared.ignored.load(Ordering::Relaxed))
    }
}
