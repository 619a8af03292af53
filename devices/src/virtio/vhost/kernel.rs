// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A vhost device of the kernel's: one open descriptor, and the rings that it has.

use std::fs::File;
use std::io;

use super::Lines;
use crate::sys::vhost::{self, Event};
use crate::virtio::queue::Queue;

/// A device, whatever it is for: what makes a ring run, and stop, is the business of its kind.
#[derive(Debug)]
pub(crate) struct Kernel {
    file: File,
    /// What it can do.
    offered: u64,
    /// What it was told of the driver's features, once it was.
    features: Option<u64>,
    knows_memory: bool,
}

impl Kernel {
    /// Takes an open device, which nobody has used yet.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        vhost::set_owner(&file)?;
        let offered = vhost::features(&file)?;
        Ok(Self { file, offered, features: None, knows_memory: false })
    }

    /// The features that it can do, among them some that no driver knows.
    pub(crate) fn offered(&self) -> u64 {
        self.offered
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Tells all of a ring, which goes on at `base`, but not to begin. It has stopped, or never run. While another one of the
    /// device runs, features are the same.
    pub(crate) fn set_up(
        &mut self,
        index: u32,
        features: u64,
        queue: &Queue,
        base: u16,
        lines: &Lines<'_>,
    ) -> io::Result<()> {
        if self.features != Some(features) {
            vhost::set_features(&self.file, features)?;
            self.features = Some(features);
        }
        if !self.knows_memory {
            vhost::set_memory(&self.file, queue.mem())?;
            self.knows_memory = true;
        }
        vhost::set_ring(&self.file, index, queue, base)?;
        vhost::set_event(&self.file, index, Event::Kick, lines.kick)?;
        vhost::set_event(&self.file, index, Event::Call, lines.call)?;
        vhost::set_event(&self.file, index, Event::Error, lines.error)
    }

    /// Where a ring goes on that has stopped.
    pub(crate) fn base(&self, index: u32) -> io::Result<u16> {
        vhost::base(&self.file, index)
    }
}
