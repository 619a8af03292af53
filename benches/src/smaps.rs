// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How much memory a VMM takes beside its guest's: `/proc/PID/smaps` (Linux Documentation/filesystems/proc.rst §1.1).

/// Mappings of this size and more are taken for guest RAM: a VMM has no others that large, and the guest has more RAM.
const GUEST_RAM: u64 = 64 << 20;

/// Bytes that are resident in mappings that are not guest RAM; `None` where the text is no smaps.
pub fn resident_outside_guest_ram(smaps: &str) -> Option<u64> {
    let mut total = None;
    let mut is_counted = false;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next()? {
            "Rss:" if is_counted => {
                let kib: u64 = words.next()?.parse().ok()?;
                total = Some(total.unwrap_or(0) + (kib << 10));
            }
            field if field.ends_with(':') => (),
            range => {
                let (start, end) = range.split_once('-')?;
                let address = |text| u64::from_str_radix(text, 16).ok();
                is_counted = address(end)?.checked_sub(address(start)?)? < GUEST_RAM;
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00600000 r-xp 00000000 08:01 42                         /usr/local/bin/a program
Size:               2048 kB
KernelPageSize:        4 kB
Rss:                1000 kB
Pss:                 500 kB
VmFlags: rd ex mr mw me sd
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Size:             262144 kB
Rss:              100000 kB
AnonHugePages:     98304 kB
VmFlags: rd wr mr mw me nr sd
7f0010000000-7f0013fff000 rw-p 00000000 00:00 0
Rss:                  24 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                  [stack]
Rss:                  12 kB
";

    #[test]
    fn all_is_counted_but_guest_ram() {
        assert_eq!(resident_outside_guest_ram(SMAPS), Some(1036 << 10));
    }

    #[test]
    fn what_is_no_smaps_counts_nothing() {
        for text in ["", "Rss: 12 kB", "zz-00 rw-p\nRss: 1 kB", "02-01 rw-p\nRss: 1 kB", "01-02 rw-p\nRss: many kB"] {
            assert_eq!(resident_outside_guest_ram(text), None, "{text}");
        }
    }
}
