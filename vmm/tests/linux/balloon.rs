// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that the guest gives back, as its host's kernel counts it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use vmm::{BalloonControl, Config, Control, Disk, Transport};

use crate::rig::{Boot, CMDLINE, Image, Reaction, guest_file, path, run_and_react_to_all};

/// What a guest is given to do as it is asked. Only one that doesn't reaches it.
const PATIENCE: Duration = Duration::from_secs(90);

const MIB: u64 = 1 << 20;

/// A machine with so much memory, which no other test of this program has: so its mapping is known by its size.
struct Machine {
    mib: u64,
    shared: bool,
    transport: Transport,
    balloon: &'static str,
}

impl Machine {
    fn run(&self, script: &str, reactions: Vec<Reaction>) -> String {
        let script = Image::script(script);
        let mut config = Config::new(guest_file("vmlinux"));
        config.initrd = Some(guest_file("initrd"));
        config.rootfs = Some(Disk::root(&format!("{},ro", path(&guest_file("rootfs.ext4")))).unwrap());
        config.disks.push(format!("path={},readonly=on", script.path).parse().unwrap());
        config.cmdline = Some(format!("{CMDLINE} vmm.run=\"sh /dev/vdb\""));
        config.memory = format!("{}M,shared={}", self.mib, if self.shared { "on" } else { "off" }).parse().unwrap();
        config.transport = Some(self.transport);
        config.balloon = Some(self.balloon.parse().unwrap());
        run_and_react_to_all(&config, reactions)
    }
}

/// How many MiB of a machine's memory the host has.
fn resident(mib: u64) -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let number = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    let mut lines = smaps.lines();
    // The first 2 MiB of private memory are a mapping of their own, and a neighbour may have become one with the rest.
    let sizes = (mib - 4) << 10..(mib + 4) << 10;
    lines.find(|line| line.starts_with("Size:") && sizes.contains(&number(line))).expect("the memory is mapped");
    number(lines.find(|line| line.starts_with("Rss:")).unwrap()) >> 10
}

/// Waits until something is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what} doesn't come");
        thread::sleep(Duration::from_millis(20));
    }
}

fn set(balloon: &BalloonControl, mib: u64) {
    assert_eq!(balloon.set_target(mib * MIB).unwrap(), mib * MIB);
    wait_until("what the balloon shall have", || balloon.actual() == mib * MIB);
}

/// In the guest: waits until a number of `/proc/meminfo`, in MiB, is as the test says.
fn guest_waits(field: &str, test: &str) -> String {
    let value = format!("$(($(grep {field}: /proc/meminfo | tr -dc 0-9) / 1024))");
    format!("while ! [ {value} {test} ]; do sleep 0.1; done\n")
}

/// Fills memory in the guest, has half of it go into the balloon, and lets all of it come back.
fn follows(machine: &Machine) {
    let (mib, half, tenth) = (machine.mib, machine.mib / 2, machine.mib / 10);
    let filled = mib * 6 / 10;
    let script = format!(
        "echo | agent memory {}; echo first\n{}echo small\n{}echo | agent memory {}; echo second\n",
        filled * MIB,
        guest_waits("MemTotal", &format!("-lt {half}")),
        guest_waits("MemTotal", &format!("-gt {}", half + half / 2)),
        filled * MIB,
    );
    let react = |react: Box<dyn FnOnce(&Control) + Send>| react;
    let output = machine.run(
        &script,
        vec![
            (
                "first\r\n",
                react(Box::new(move |control| {
                    let balloon = control.balloon().unwrap();
                    let full = resident(mib);
                    assert!(full >= filled, "{full} of {mib} MiB");
                    set(balloon, half);
                    let small = resident(mib);
                    assert!(small <= mib - half + tenth, "{small} of {mib} MiB, from {full}");
                    wait_until("what the guest has to say", || {
                        let total = balloon.statistics().and_then(|statistics| statistics.total_memory);
                        total.is_some_and(|total| total > MIB && total <= (mib - half) * MIB)
                    });
                    println!("{mib} MiB: {full} resident, and {small} with {half} in the balloon");
                })),
            ),
            ("small\r\n", react(Box::new(|control| set(control.balloon().unwrap(), 0)))),
            (
                "second\r\n",
                react(Box::new(move |control| {
                    let again = resident(mib);
                    println!("{mib} MiB: {again} resident again");
                    assert!(again >= filled - tenth, "{again} of {mib} MiB");
                    assert_eq!(control.balloon().unwrap().ignored_pages(), 0);
                    let error = control.balloon().unwrap().set_target(mib * MIB + 1).unwrap_err().to_string();
                    assert!(error.ends_with(&format!("give at most {}", mib * MIB)), "{error}");
                })),
            ),
        ],
    );
    assert!(output.contains("second\r\n"), "{output}");
}

#[test]
fn half_of_a_private_memory_goes_into_the_balloon_and_comes_back() {
    follows(&Machine { mib: 320, shared: false, transport: Transport::Mmio, balloon: "stats=1" });
}

#[test]
fn half_of_a_shared_memory_goes_into_the_balloon_and_comes_back() {
    follows(&Machine { mib: 336, shared: true, transport: Transport::Pci, balloon: "stats=1,free-page-reporting=off" });
}

/// Fills memory in the guest and frees it, and sees it go.
fn reports(machine: &Machine) {
    let (mib, filled) = (machine.mib, machine.mib / 2);
    let script = format!("sleep 3 | agent memory {}; echo freed\n", filled * MIB);
    let (tell, told) = std::sync::mpsc::channel();
    let output = machine.run(
        &format!("{script}{}", guest_waits("MemTotal", &format!("-lt {}", mib - 48))),
        vec![
            (
                "agent: touched",
                Box::new(move |_: &Control| {
                    let full = resident(mib);
                    assert!(full >= filled, "{full} of {mib} MiB");
                    tell.send(full).unwrap();
                }) as Box<dyn FnOnce(&Control) + Send>,
            ),
            (
                "freed\r\n",
                Box::new(move |control: &Control| {
                    let full: u64 = told.recv().unwrap();
                    let most = full - filled * 9 / 10;
                    wait_until("what was freed", || resident(mib) <= most);
                    println!("{mib} MiB: {full} resident, and {} when {filled} were freed", resident(mib));
                    // Lets the guest go on.
                    control.balloon().unwrap().set_target(64 * MIB).unwrap();
                }),
            ),
        ],
    );
    assert!(output.contains("freed\r\n"), "{output}");
}

#[test]
fn what_the_guest_frees_of_a_private_memory_is_the_hosts_again() {
    reports(&Machine { mib: 352, shared: false, transport: Transport::Pci, balloon: "free-page-reporting=on" });
}

#[test]
fn what_the_guest_frees_of_a_shared_memory_is_the_hosts_again() {
    reports(&Machine { mib: 368, shared: true, transport: Transport::Mmio, balloon: "free-page-reporting=on" });
}

/// Fills memory in the guest and frees it, and asks for it twice: it stays the guest's to use.
#[test]
fn what_the_guest_does_not_use_is_the_hosts_when_it_is_asked_for() {
    let machine =
        Machine { mib: 384, shared: false, transport: Transport::Mmio, balloon: "free-page-hinting=on,stats=1" };
    let (mib, filled) = (machine.mib, machine.mib / 2);
    let ask = move |control: &Control| {
        let (balloon, full) = (control.balloon().unwrap(), resident(mib));
        assert!(full >= filled, "{full} of {mib} MiB");
        balloon.ask_for_free_pages().unwrap();
        wait_until("all hints", || !balloon.is_asked_for_free_pages());
        let most = full - filled * 9 / 10;
        assert!(resident(mib) <= most, "{} of {mib} MiB, from {full}", resident(mib));
        println!("{mib} MiB: {full} resident, and {} after hints", resident(mib));
    };
    let last = move |control: &Control| {
        ask(control);
        // Lets the guest go on.
        control.balloon().unwrap().set_target(64 * MIB).unwrap();
    };
    let fill = format!("echo | agent memory {}\n", filled * MIB);
    // The guest has its pages back, or it couldn't fill them again.
    let script = format!(
        "{fill}echo first\nsleep 5\n{fill}echo second\n{}",
        guest_waits("MemTotal", &format!("-lt {}", mib - 48))
    );
    let output = machine.run(&script, vec![("first\r\n", Box::new(ask)), ("second\r\n", Box::new(last))]);
    assert!(output.contains("second\r\n"), "{output}");
}

#[test]
fn a_guest_that_is_short_of_memory_takes_it_out_of_the_balloon() {
    let script =
        Image::script(&format!("{}echo | agent memory {}; echo has it\n", guest_waits("MemFree", "-lt 96"), 160 * MIB));
    let keys = "size=192M,deflate-on-oom=on";
    let ended = Boot::new().args(&["--memory", "304M", "--balloon", keys]).script(&script).run();
    ended.assert_clean().assert_says(&format!("agent: touched {}", 160 * MIB)).assert_says("has it\r\n");
}
