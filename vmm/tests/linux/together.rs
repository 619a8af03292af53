// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every device and every flag in one VM.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use crate::rig::{Boot, Image, path};

/// How long the guest is looked at while it does nothing.
const IDLE: Duration = Duration::from_secs(5);

/// How often each thread of a process was woken so far. Those of vCPUs are woken by what their guest does, and so is that of the
/// entropy device: a thread of Linux's own asks it for more from time to time.
fn wakeups(process: u32) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let named = tasks.map(|task| {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap();
        let status = read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        (format!("{} {}", read("comm").trim(), task.file_name().display()), line.trim().parse().unwrap())
    });
    named.filter(|(name, _)| !name.starts_with("vcpu") && !name.starts_with("rng")).collect()
}

#[test]
fn all_devices_are_in_one_vm_and_none_of_its_threads_wakes_while_the_guest_does_nothing() {
    for transport in ["mmio", "pci"] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| path(&folder.path().join(name));
        let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        fs::write(folder.path().join("secret"), [0, 1, 0xff]).unwrap();
        let script = Image::script(
            "agent serve vsock:5000 & agent notify READY=1\n\
             head -c 8 /dev/hwrng | wc -c; cat /sys/class/dmi/id/product_uuid\n\
             ls /dev/hvc0 /sys/class/virtio-ports/; cat /sys/class/virtio-ports/*/name\n\
             for d in /sys/bus/virtio/devices/*/device; do cat $d; done | sort | tr '\\n' ' '; echo are there\n\
             read line < /dev/ttyS0\n",
        );
        let flags = [
            ["--vsock", &format!("cid=5,socket={}", at("v"))],
            ["--rng", "bw=1M"],
            ["--balloon", "size=16M,deflate-on-oom=on"],
            ["--console", &format!("socket={},log={}", at("c"), at("c.log"))],
            ["--console", &format!("file={},name=port", at("p"))],
            ["--machine-id", "6f3b9d2e-5d0c-4c55-9a51-3f7a0d7c1b22"],
            ["--credential", &format!("secret={}", at("secret"))],
            ["--oem-string", "together"],
            ["--pvpanic", "on"],
            ["--on-reboot", "exit"],
            ["--on-crash", "exit"],
            ["--on-watchdog", "exit"],
            ["--transport", transport],
        ];
        let boot = flags.iter().fold(Boot::new().args(&["--notify", "--watchdog"]), |boot, flag| boot.args(flag));
        let mut vm = boot.env("NOTIFY_SOCKET", &at("notify")).script(&script).stdin().start();
        vm.expect("are there");
        let mut ready = [0; 100];
        let len = manager.recv(&mut ready).unwrap();
        assert_eq!(&ready[..len], b"READY=1\n");
        // What it does to come to rest takes it a moment, which nobody tells of.
        thread::sleep(IDLE);
        let before = wakeups(vm.child.id());
        thread::sleep(IDLE);
        let after = wakeups(vm.child.id());
        assert_eq!(before, after, "{transport}");
        assert!(after.len() >= 5, "{after:?}");
        vm.type_in("end\n");
        let ended = vm.wait();
        assert_eq!((ended.status, ended.errors.as_str()), (Some(0), ""), "{}", ended.output);
        ended.assert_says("\n8\r\n").assert_says("6f3b9d2e-5d0c-4c55-9a51-3f7a0d7c1b22").assert_says("port\r\n");
        // Block, console, entropy, balloon and socket device, by their types.
        ended.assert_says("0x0002 0x0002 0x0003 0x0004 0x0005 0x0013 are there");
    }
}
