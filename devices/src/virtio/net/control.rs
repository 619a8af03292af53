// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The control queue (virtio 1.3 §5.1.6.5): what the driver wants of its card.
//!
//! The guest controls class, command and data. What is unknown, not agreed upon or not exactly as long as it should be is
//! answered with an error and counted. Which frames the driver wants is checked and not kept: that is only a wish (§5.1.6.5.1),
//! and the host gives those that are for this guest.

use super::counters::Reason;
use super::mac::MacAddress;
use super::ring::{Next, Ring};
use super::spec;
use crate::virtio::chain::ChainError;
use crate::virtio::queue::QueueError;
use vm_memory::Bytes;

/// The most addresses in either list of MAC_TABLE_SET.
const MAX_ADDRESSES: u32 = 1024;

#[derive(Debug)]
pub(super) struct Control {
    pub(super) ring: Ring,
}

impl Control {
    pub(super) fn new(ring: Ring) -> Self {
        Self { ring }
    }

    /// Does all commands that are there.
    pub(super) fn turn(&mut self) -> Result<Next, QueueError> {
        let available = self.ring.begin()?;
        self.ring.expect(available);
        let most = u32::from(available).saturating_add(self.ring.queue.size().into());
        for _ in 0..most {
            if self.ring.is_interrupted() {
                self.ring.announce()?;
                return Ok(Next { again: true, ..Next::default() });
            }
            let Some((head, usable)) = self.ring.next()? else { break };
            let written = self.serve(usable);
            self.ring.give_back(head, written, 0)?;
        }
        self.ring.announce()?;
        self.ring.wait_for_doorbell()
    }

    /// Does the command in the chain and answers; gives how many bytes were written.
    fn serve(&mut self, usable: Result<(), ChainError>) -> u32 {
        let Some(place) = usable.ok().and_then(|()| self.ring.chain.take_last_writable()) else {
            self.ring.drop(Reason::BadChain);
            return 0;
        };
        let answer = match self.command() {
            Some(()) => {
                self.ring.pass(0);
                spec::CTRL_OK
            }
            None => {
                self.ring.drop(Reason::BadHeader);
                spec::CTRL_ERR
            }
        };
        // It was in RAM when the chain was read.
        u32::from(self.ring.queue.mem().write_obj(answer, place).is_ok())
    }

    fn data<const N: usize>(&mut self) -> Option<[u8; N]>
    where
        [u8; N]: vm_memory::ByteValued,
    {
        self.ring.chain.take_header(self.ring.queue.mem())
    }

    /// Nothing comes behind what was read.
    fn end(&self) -> Option<()> {
        (self.ring.chain.readable_len() == 0).then_some(())
    }

    /// Whether the driver may use what belongs to a feature.
    fn agreed(&self, feature: u64) -> Option<()> {
        (self.ring.features & feature == feature).then_some(())
    }

    /// Does the command. `None`: it can't be done.
    fn command(&mut self) -> Option<()> {
        let [class, command] = self.data()?;
        match (class, command) {
            (spec::CTRL_RX, spec::CTRL_RX_PROMISC | spec::CTRL_RX_ALLMULTI) => {
                self.agreed(spec::F_CTRL_RX)?;
                let [on] = self.data()?;
                self.end()?;
                (on <= 1).then_some(())
            }
            (spec::CTRL_MAC, spec::CTRL_MAC_TABLE_SET) => {
                self.agreed(spec::F_CTRL_RX)?;
                self.addresses()?;
                self.addresses()?;
                self.end()
            }
            (spec::CTRL_MAC, spec::CTRL_MAC_ADDR_SET) => {
                self.agreed(spec::F_CTRL_MAC_ADDR)?;
                let mac = MacAddress::new(self.data()?).ok()?;
                self.end()?;
                // Who may only send from one address may have no other.
                let card = &self.ring.card;
                (card.options.antispoof.is_none() || mac == card.options.mac).then(|| card.set_mac(mac))
            }
            (spec::CTRL_MQ, spec::CTRL_MQ_VQ_PAIRS_SET) => {
                self.agreed(spec::F_MQ)?;
                let pairs = u16::from_le_bytes(self.data()?);
                self.end()?;
                self.change()?;
                let card = &self.ring.card;
                (1..=card.pairs).contains(&pairs).then(|| card.set_active_pairs(pairs))
            }
            (spec::CTRL_GUEST_OFFLOADS, spec::CTRL_GUEST_OFFLOADS_SET) => {
                self.agreed(spec::F_CTRL_GUEST_OFFLOADS)?;
                let offloads = u64::from_le_bytes(self.data()?);
                self.end()?;
                self.change()?;
                let agreed = self.ring.features & spec::GUEST_OFFLOADS;
                (offloads & !agreed == 0 && self.ring.card.set_offloads(offloads)).then_some(())
            }
            _ => None,
        }
    }

    /// Whether one more change of the tap may be made now.
    fn change(&mut self) -> Option<()> {
        self.ring.card.may_change().then_some(())
    }

    /// Reads past a list of addresses.
    fn addresses(&mut self) -> Option<()> {
        let count = u32::from_le_bytes(self.data()?);
        if count > MAX_ADDRESSES {
            return None;
        }
        (0..count).try_for_each(|_| self.data::<6>().map(|_| ()))
    }

    pub(super) fn stop(self) -> Ring {
        self.ring
    }
}
