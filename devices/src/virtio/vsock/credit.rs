// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How much each side of a connection has room for (virtio 1.3 §5.10.6.3).
//!
//! The guest controls its two numbers, in every packet. With those it can keep data from itself, and nothing else. How much we
//! have to keep of what it sends is what we have promised, and not a byte more.

/// What a connection has room for from the start, in bytes.
pub(super) const LEAST: u32 = 64 << 10;
/// What one that moves much has room for.
pub(super) const MOST: u32 = 1 << 20;

/// The credit of one connection. All counts are modulo 2^32.
#[derive(Debug)]
pub(super) struct Credit {
    /// What the guest has room for, as it has said last.
    guest_alloc: u32,
    /// What it has taken out, as it has said last.
    guest_fwd: u32,
    /// What was sent to it.
    sent: u32,
    /// What we have room for.
    alloc: u32,
    /// What the guest has sent.
    received: u32,
    /// What we have passed on of that.
    forwarded: u32,
    /// What the guest was told last of `forwarded`.
    told: u32,
}

impl Credit {
    pub(super) fn new() -> Self {
        Self { guest_alloc: 0, guest_fwd: 0, sent: 0, alloc: LEAST, received: 0, forwarded: 0, told: 0 }
    }

    /// Takes in what the guest has said of itself.
    pub(super) fn learn(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        (self.guest_alloc, self.guest_fwd) = (buf_alloc, fwd_cnt);
    }

    /// How many bytes the guest has room for. One that has shrunk its room below what is under way, or has taken out what was
    /// never sent, has none.
    pub(super) fn guest_room(&self) -> u32 {
        self.guest_alloc.saturating_sub(self.sent.wrapping_sub(self.guest_fwd))
    }

    /// So many bytes go to the guest.
    pub(super) fn send(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }

    /// So many bytes have come from the guest. `false`: more than it was promised room for.
    pub(super) fn receive(&mut self, bytes: u32) -> bool {
        let kept = self.received.wrapping_sub(self.forwarded);
        let fits = self.alloc.saturating_sub(kept) >= bytes;
        if fits {
            self.received = self.received.wrapping_add(bytes);
        }
        fits
    }

    /// So many of them were passed on, or are not wanted.
    pub(super) fn forward(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    /// Whether the guest should be told, as it may wait for that: half of the room that it uses is there again. A Linux guest
    /// uses no more than it has for what comes to it.
    pub(super) fn should_tell(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= (self.alloc.min(self.guest_alloc) / 2).max(1)
    }

    /// What we have room for, and what we have taken out: the guest is told it now.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (self.alloc, self.forwarded)
    }

    /// How many bytes there is room for beyond the least.
    pub(super) fn extra(&self) -> u32 {
        self.alloc.saturating_sub(LEAST)
    }

    /// Takes from `pool` to double the room, if that has as much and the guest would use it. What was promised is never taken
    /// back while the connection lives.
    pub(super) fn grow(&mut self, pool: &mut u32) {
        let useful = MOST.min(self.guest_alloc);
        let more = self.alloc.min(useful.saturating_sub(self.alloc));
        if let Some(rest) = pool.checked_sub(more) {
            *pool = rest;
            self.alloc = self.alloc.saturating_add(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_gets_no_more_than_it_has_room_for_whatever_it_says() {
        let mut credit = Credit::new();
        assert_eq!(credit.guest_room(), 0);
        credit.learn(1000, 0);
        assert_eq!(credit.guest_room(), 1000);
        credit.send(600);
        assert_eq!(credit.guest_room(), 400);
        credit.learn(500, 0);
        assert_eq!(credit.guest_room(), 0, "its room has shrunk below what is under way");
        credit.learn(1000, 600);
        assert_eq!(credit.guest_room(), 1000);
        credit.learn(u32::MAX, 601);
        assert_eq!(credit.guest_room(), 0, "it has taken out what was never sent");
    }

    #[test]
    fn counts_go_round() {
        let mut credit = Credit::new();
        credit.learn(1 << 20, 0);
        for _ in 0..100_000 {
            let room = credit.guest_room();
            credit.send(room);
            credit.learn(1 << 20, credit.sent);
            assert!(credit.receive(LEAST) && !credit.receive(1));
            credit.forward(LEAST as usize);
            assert!(credit.should_tell());
            assert_eq!(credit.tell().1, credit.received);
        }
        assert_eq!(credit.received, (u64::from(LEAST) * 100_000) as u32);
    }

    #[test]
    fn the_guest_is_told_when_half_of_its_room_is_there_again() {
        let mut credit = Credit::new();
        credit.learn(u32::MAX, 0);
        assert!(credit.receive(LEAST));
        credit.forward(LEAST as usize / 2 - 1);
        assert!(!credit.should_tell());
        credit.forward(1);
        assert!(credit.should_tell());
        credit.tell();
        assert!(!credit.should_tell());
        // One with less room for itself uses no more of ours.
        credit.learn(1000, 0);
        credit.forward(499);
        assert!(!credit.should_tell());
        credit.forward(1);
        assert!(credit.should_tell());
    }

    #[test]
    fn room_grows_as_far_as_the_pool_goes() {
        let (mut credit, mut pool) = (Credit::new(), 4 << 20);
        credit.learn(u32::MAX, 0);
        for _ in 0..10 {
            credit.grow(&mut pool);
        }
        assert_eq!((credit.alloc, credit.extra(), pool), (MOST, MOST - LEAST, (4 << 20) - (MOST - LEAST)));
        assert!(credit.receive(MOST) && !credit.receive(1));
        let (mut credit, mut pool) = (Credit::new(), LEAST - 1);
        credit.learn(u32::MAX, 0);
        credit.grow(&mut pool);
        assert_eq!((credit.alloc, pool), (LEAST, LEAST - 1));
        // Nor is there more than the guest uses.
        let mut pool = u32::MAX;
        credit.learn(LEAST + 5, 0);
        credit.grow(&mut pool);
        credit.grow(&mut pool);
        assert_eq!(credit.alloc, LEAST + 5);
    }
}
