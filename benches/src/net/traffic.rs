// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the host sees of a turn: how large the frames are, which with offloads are up to 64 KiB and cost about the same whatever
//! their size, and what was lost on the way.

use std::fs;

/// What has passed a tap so far, in the host's directions, and what TCP has sent again (proc_pid_net(5), `dev` and `snmp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    received: Passed,
    sent: Passed,
    /// Frames that the tap had no room for.
    dropped: u64,
    /// Segments, by all of the namespace.
    resent: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Passed {
    bytes: u64,
    frames: u64,
}

impl Traffic {
    /// Of an interface in the namespace of this thread; `None` where there is no such interface.
    pub fn of(interface: &str) -> Option<Self> {
        let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).ok();
        Some(Self { resent: segments_resent(&read("snmp")?)?, ..Self::parse(&read("dev")?, interface)? })
    }

    fn parse(text: &str, interface: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
        let numbers: Vec<u64> = line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        // Eight columns for each direction: bytes, packets, errs, drop, and so on.
        let passed = |at: usize| Some(Passed { bytes: *numbers.get(at)?, frames: *numbers.get(at + 1)? });
        Some(Self { received: passed(0)?, sent: passed(8)?, dropped: *numbers.get(11)?, resent: 0 })
    }

    /// For people: what has passed since then.
    pub fn since(self, before: Self) -> Option<String> {
        let passed = |now: Passed, then: Passed| {
            let (bytes, frames) = (now.bytes.checked_sub(then.bytes)?, now.frames.checked_sub(then.frames)?);
            Some((bytes, bytes.checked_div(frames)?))
        };
        // The direction in which there was more.
        let directions = [passed(self.received, before.received), passed(self.sent, before.sent)];
        let (_, mean) = directions.into_iter().flatten().max()?;
        let (dropped, resent) = (self.dropped.checked_sub(before.dropped)?, self.resent.checked_sub(before.resent)?);
        let some = |count: u64, what: &str| if count > 0 { format!(", {count} {what}") } else { String::new() };
        let (dropped, resent) = (some(dropped, "dropped by the tap"), some(resent, "segments sent again"));
        Some(format!("frames of {mean} bytes{dropped}{resent}"))
    }
}

/// Two lines that begin with `Tcp:`, the first with names.
fn segments_resent(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let at = lines.next()?.split_ascii_whitespace().position(|name| name == "RetransSegs")?;
    lines.next()?.split_ascii_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
 tap10:       9       9    0    0    0     0          0         0        9       9    0    0    0     0       0          0
  tap1:    1000      10    0    0    0     0          0         0   600000      20    0    7    0     0       0          0
";

    #[test]
    fn the_interface_is_found_by_its_whole_name() {
        let (received, sent) = (Passed { bytes: 1000, frames: 10 }, Passed { bytes: 600_000, frames: 20 });
        assert_eq!(Traffic::parse(TEXT, "tap1"), Some(Traffic { received, sent, dropped: 7, resent: 0 }));
        assert_eq!(Traffic::parse(TEXT, "tap"), None);
        assert!(Traffic::of("lo").is_some());
        assert_eq!(segments_resent("Tcp: A RetransSegs B\nTcp: -1 5 0\nUdp: A\nUdp: 1\n"), Some(5));
    }

    #[test]
    fn the_busier_direction_counts_and_losses_are_told() {
        let now = Traffic::parse(TEXT, "tap1").unwrap();
        let told = now.since(Traffic::default());
        assert_eq!(told.as_deref(), Some("frames of 30000 bytes, 7 dropped by the tap"));
        let (later, before) = (Traffic { resent: 3, ..now }, Traffic { received: Passed::default(), ..now });
        assert_eq!(later.since(before).as_deref(), Some("frames of 100 bytes, 3 segments sent again"));
        assert_eq!(now.since(now), None);
    }
}
