// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device: what it offers, its configuration space, and its queues.

use std::sync::Arc;

use super::card::{Card, NetControl};
use super::options::{Backend, MAX_QUEUE_PAIRS, MAX_QUEUE_SIZE, MIN_MTU, MIN_QUEUE_SIZE, NetError, NetOptions};
use super::spec;
use crate::virtio::device::{QueueResources, StartError, VirtioDevice};
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::QueueState;

/// A network card, each queue pair of which is served by a thread of its own.
#[derive(Debug)]
pub struct Net {
    card: Arc<Card>,
    queue_sizes: Vec<u16>,
}

impl Net {
    /// A card on these backends, one for each queue pair. `name` stands in log lines and names the threads.
    ///
    /// # Errors
    ///
    /// When the backends or the options are none of a card.
    pub fn new(name: impl Into<String>, backends: Vec<Backend>, options: NetOptions) -> Result<Self, NetError> {
        let NetOptions { queue_size, mtu, .. } = options;
        let pairs = u16::try_from(backends.len()).ok().filter(|pairs| (1..=MAX_QUEUE_PAIRS).contains(pairs));
        let pairs = pairs.ok_or(NetError::BadQueuePairs(backends.len()))?;
        if !queue_size.is_power_of_two() || !(MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&queue_size) {
            return Err(NetError::BadQueueSize(queue_size));
        }
        if let Some(mtu) = mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(NetError::BadMtu(mtu));
        }
        let card = Card::new(name.into(), options, pairs, None, 0);
        let card = card.map_err(|source| NetError::SetUp { what: "an eventfd", source })?;
        let queues = usize::from(pairs).saturating_mul(2).saturating_add(1);
        Ok(Self { card: Arc::new(card), queue_sizes: vec![queue_size; queues] })
    }

    /// The host's way to this card while a VM has it.
    pub fn control(&self) -> NetControl {
        NetControl(Arc::downgrade(&self.card))
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
        spec::F_MAC
            | spec::F_STATUS
            | spec::F_MRG_RXBUF
            | spec::F_CTRL_VQ
            | spec::F_CTRL_RX
            | spec::F_CTRL_MAC_ADDR
            | offloads
            | when(offloads & spec::GUEST_OFFLOADS != 0, spec::F_CTRL_GUEST_OFFLOADS)
            | when(self.card.options.mtu.is_some(), spec::F_MTU)
            | when(self.card.pairs > 1, spec::F_MQ)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
    }

    fn attach(&mut self, notifier: &Arc<Notifier>) {
        self.card.attach(notifier);
    }

    fn start_queue(&mut self, index: u16, _resources: QueueResources, _features: u64) -> Result<(), StartError> {
        Err(StartError::NoSuchQueue { index })
    }

    fn stop_queue(&mut self, _index: u16) -> Option<QueueState> {
        None
    }

    fn reset(&mut self) {
        let Self { card, queue_sizes: _ } = self;
        card.reset();
    }
}
