// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Random numbers of the host's, as the guest's kernel hands them on.

use crate::rig::Boot;

#[test]
fn the_guest_reads_random_numbers_over_both_transports() {
    let command = "cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=4k count=16 of=/tmp/r 2> /dev/null; \
                   echo read=$(wc -c < /tmp/r) packed=$(gzip -c /tmp/r | wc -c)";
    for transport in ["mmio", "pci"] {
        let ended = Boot::new().args(&["--transport", transport]).say(&format!("vmm.run=\"{command}\"")).run();
        ended.assert_clean().assert_says("virtio_rng.0\r\n").assert_says("read=65536 ");
        let packed = ended.output.split_once("packed=").unwrap().1;
        let packed: u64 = packed.split_whitespace().next().unwrap().parse().unwrap();
        assert!(packed >= 64 << 10, "{packed} bytes is what is left of 64 KiB of random numbers");
    }
}

#[test]
fn a_limit_holds_and_without_the_device_there_is_none() {
    let read = "echo from=$(cut -d. -f1 /proc/uptime); dd if=/dev/hwrng bs=1k count=32 2> /dev/null | wc -c; \
                echo to=$(cut -d. -f1 /proc/uptime)";
    let ended = Boot::new().args(&["--rng", "bw=4K,1K"]).say(&format!("vmm.run=\"{read}\"")).run();
    ended.assert_clean().assert_says("32768\r\n");
    // By the guest's clock: a slow machine makes it longer, and nothing makes it shorter.
    let at = |name: &str| -> u64 {
        let rest = ended.output.split_once(name).unwrap().1;
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert!(at("to=") - at("from=") >= 6, "{}", ended.output);
    let ended =
        Boot::new().args(&["--no-rng"]).say("vmm.run=\"cat /sys/class/misc/hw_random/rng_available; echo none\"");
    ended.run().assert_clean().assert_says("none\r\n");
}
