// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a card doesn't let through, as a Linux guest and its host see it: other people's addresses, and more than its rates.

use std::process::Command;
use std::time::{Duration, Instant};

use devices::virtio::net::QueueCounters;
use vmm::{Config, Control, Disk};

use crate::namespace::{in_namespace, ip, serve_netload};
use crate::rig::{CMDLINE, Image, guest_file, path, run_and_react_to_all};

/// The queues of a card with one pair.
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;

/// A guest that runs a script with these cards.
fn config(nets: &[String], script: &Image) -> Config {
    let mut config = Config::new(guest_file("vmlinux"));
    config.initrd = Some(guest_file("initrd"));
    config.nets = nets.iter().map(|net| net.parse().unwrap()).collect();
    config.rootfs = Some(Disk::root(&format!("{},ro", path(&guest_file("rootfs.ext4")))).unwrap());
    config.disks = vec![format!("path={},readonly=on", script.path).parse().unwrap()];
    config.cmdline = Some(format!("{CMDLINE} vmm.run=\"sh /dev/vdb\""));
    config
}

fn counters(control: &Control, card: usize) -> Vec<QueueCounters> {
    control.nets()[card].counters()
}

/// Whether the host has heard of a neighbour.
fn knows(address: &str) -> bool {
    let output = Command::new("/sbin/ip").args(["neighbour", "show", address]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().contains("lladdr")
}

#[test]
fn a_guest_that_says_it_is_somebody_else_is_not_heard_and_counted() {
    in_namespace(|| {
        ip("tuntap add name tap0 mode tap vnet_hdr");
        ip("link set tap0 up");
        ip("address add 198.51.100.1/28 dev tap0");
        let script = Image::script(
            "be() { ip address flush dev eth0; ip address add $1/28 dev eth0; ping -c 1 -W 2 198.51.100.1 && echo $1 is heard; }\n\
             ip link set eth0 up; be 198.51.100.2; be 198.51.100.3; echo was another address\n\
             ip link set eth0 down; ip link set eth0 address 52:54:00:00:00:99 || echo stays the card that it is\n",
        );
        let nets = ["tap=tap0,antispoof=on,ip=198.51.100.2,mac=52:54:00:00:00:01".to_owned()];
        let spoofed = |control: &Control| counters(control, 0)[FROM_GUEST].drops.spoofed;
        let look = move |control: &Control| {
            assert!(knows("198.51.100.2") && !knows("198.51.100.3"));
            assert_ne!(spoofed(control), 0);
        };
        let seen = run_and_react_to_all(&config(&nets, &script), vec![("was another address\r\n", Box::new(look))]);
        assert!(seen.contains("198.51.100.2 is heard\r\n"), "{seen}");
        assert_eq!(seen.matches(" is heard").count(), 1, "{seen}");
        assert!(seen.contains("stays the card that it is\r\n"), "{seen}");
    });
}

/// Bytes a second, and how many at once: what comes in a sixteenth of a second.
const BW: u64 = 1 << 20;
/// Frames a second.
const OPS: u64 = 64;
/// How far off a rate may be. A burst and a large frame more or less are within it, with ten seconds to be divided by.
const EXACT: f64 = 0.05;
const WINDOW: Duration = Duration::from_secs(10);

/// What the four queues with limits have let through so far, and the moments between which that was found out.
struct Sample {
    from: Instant,
    to: Instant,
    moved: [f64; 4],
}

impl Sample {
    fn of(control: &Control) -> Self {
        let from = Instant::now();
        let (by_bytes, by_frames) = (counters(control, 0), counters(control, 1));
        let moved = [
            by_bytes[TO_GUEST].bytes,
            by_bytes[FROM_GUEST].bytes,
            by_frames[TO_GUEST].frames,
            by_frames[FROM_GUEST].frames,
        ];
        Self { from, to: Instant::now(), moved: moved.map(|count| count as f64) }
    }

    /// Whether each queue has had all that it may have since then. More is never let through.
    fn is_exact_since(&self, first: &Self) -> bool {
        let (least, most) = ((self.from - first.to).as_secs_f64(), (self.to - first.from).as_secs_f64());
        let limits = [BW, BW, OPS, OPS].map(|limit| limit as f64);
        let queues = limits.into_iter().zip(self.moved).zip(first.moved);
        queues.fold(true, |exact, ((limit, last), first)| {
            let (low, high) = (limit * least * (1.0 - EXACT), limit * most * (1.0 + EXACT));
            println!("{} in {least:.2} to {most:.2} s: {low:.0} to {high:.0}", last - first);
            assert!(last - first <= high, "{} in {most} s are more than {high}", last - first);
            exact && last - first >= low
        })
    }
}

#[test]
fn ten_seconds_give_a_card_its_rates_in_both_directions_to_within_five_percent() {
    in_namespace(|| {
        let netload = serve_netload(5201);
        let (burst, frames) = (BW / 16, OPS / 16);
        let nets = [
            format!("tap=tap0,mac=52:54:00:00:00:01,bw-rx={BW},{burst},bw-tx={BW},{burst}"),
            format!("tap=tap1,mac=52:54:00:00:00:02,ops-rx={OPS},{frames},ops-tx={OPS},{frames}"),
        ];
        let script = Image::script(
            "for i in /sys/class/net/eth*; do read mac < $i/address; n=$(( ${mac##*:} * 16 )); ip link set ${i##*/} up\n\
             ip address add 198.51.100.$((n + 2))/28 dev ${i##*/}; done\n\
             echo wants addresses; until ping -c 1 -W 1 198.51.100.17 && ping -c 1 -W 1 198.51.100.33; do :; done\n\
             for a in 17 33; do for d in send receive; do\n\
             while netload $d 198.51.100.$a:5201 67108864 2; do :; done & done; done; echo is loaded; wait\n",
        );
        let give_addresses = |_: &Control| {
            ip("address add 198.51.100.17/28 dev tap0");
            ip("address add 198.51.100.33/28 dev tap1");
        };
        let measure = move |control: &Control| {
            // What has piled up by then is more than each queue may have.
            std::thread::sleep(WINDOW / 2);
            // A machine that is too busy to let its guest send is nobody's promise: then there is another window.
            let exact = (0..5).any(|_| {
                let first = Sample::of(control);
                std::thread::sleep(WINDOW);
                Sample::of(control).is_exact_since(&first)
            });
            assert!(exact, "no ten seconds gave all that the limits allow");
            // The guest has nobody to send to any more, and ends.
            drop(netload);
        };
        run_and_react_to_all(
            &config(&nets, &script),
            vec![("wants addresses\r\n", Box::new(give_addresses)), ("is loaded\r\n", Box::new(measure))],
        );
    });
}
