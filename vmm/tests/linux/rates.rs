// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The rates of disks, over ten seconds of the host's clock and of the guest's: neither more nor less than was asked for.

use std::fs;
use std::time::Instant;

use crate::rig::{Boot, Image, Running};

/// Bytes a second, and how many at once: what comes in an eighth of a second.
const BW: &str = "bw=256K,32K";
const BYTES: f64 = 262_144.0;
/// Requests a second, of 4 KiB each in this test.
const OPS: &str = "ops=32,4";
const BYTES_OF_OPS: f64 = 32.0 * 4096.0;
/// What is measured, at least, by both clocks.
const WINDOW: f64 = 10.0;
/// Ticks until every disk has used up the burst that it starts with, and reads as fast as it may.
const SETTLED: usize = 3;
/// How far off a rate may be. A burst and a request more or less are within it, with ten seconds to be divided by.
const EXACT: f64 = 0.05;

/// The disks, vdb to vde, and what each moves: by a rate in bytes, by one in requests, and two that share one.
const DISKS: [char; 4] = ['b', 'c', 'd', 'e'];

/// What has been moved so far, by each disk, and the moments between which that was found out.
#[derive(Clone, Copy, Debug)]
struct Sample {
    from: f64,
    to: f64,
    bytes: [f64; DISKS.len()],
}

impl Sample {
    /// Counted by the host, by its clock: the threads of each disk read the image, and next to nothing besides.
    fn of_host(vm: &Running, start: Instant) -> Self {
        let tasks = format!("/proc/{}/task", vm.child.id());
        let now = || start.elapsed().as_secs_f64();
        let from = now();
        let bytes = DISKS.map(|letter| {
            // The queue's own, and those of its pool, which never end before it does.
            let names = [format!("vd{letter} q0\n"), format!("vd{letter}\n")];
            let reads = |task: fs::DirEntry| {
                let name = fs::read_to_string(task.path().join("comm")).ok()?;
                let io = names.contains(&name).then(|| fs::read_to_string(task.path().join("io")).unwrap())?;
                io.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse::<f64>().ok()
            };
            fs::read_dir(&tasks).unwrap().filter_map(|task| reads(task.unwrap())).sum()
        });
        Self { from, to: now(), bytes }
    }

    /// Counted by the guest, by its clock: a line of `tick:NUMBER:TIME:SECTORS:…:TIME:end`.
    fn of_guest(line: &str) -> Self {
        let numbers: Vec<f64> = line.split(':').filter_map(|number| number.parse().ok()).collect();
        let [_, from, b, c, d, e, to] = numbers[..] else { panic!("{line}") };
        Self { from, to, bytes: [b, c, d, e].map(|sectors| sectors * 512.0) }
    }

    /// How long it is from `first` to this one, at least and at most.
    fn since(&self, first: &Self) -> (f64, f64) {
        (self.from - first.to, self.to - first.from)
    }

    /// The bytes that each limit has let through since `first`.
    fn moved(&self, first: &Self) -> [(&'static str, f64, f64); 3] {
        let [b, c, d, e] = std::array::from_fn(|i| self.bytes[i] - first.bytes[i]);
        [(BW, BYTES, b), (OPS, BYTES_OF_OPS, c), ("a group's bw", BYTES, d + e)]
    }
}

/// Whether no limit was kept waiting for its guest. More than it allows is never let through.
fn is_exact(whose: &str, first: &Sample, last: &Sample) -> bool {
    let (least, most) = last.since(first);
    last.moved(first).into_iter().fold(true, |exact, (limit, rate, bytes)| {
        let (low, high) = (rate * least * (1.0 - EXACT), rate * most * (1.0 + EXACT));
        println!("{limit} by the {whose}: {bytes} bytes in {least:.2} to {most:.2} s: {low:.0} to {high:.0}");
        assert!(bytes <= high, "{limit} by the {whose}: {bytes} bytes in {most} s are more than {high}");
        exact && bytes >= low
    })
}

#[test]
fn ten_seconds_give_a_disk_its_rate_to_within_five_percent_and_a_group_its_own() {
    let images = DISKS.map(|_| Image::empty(64 << 20));
    let mut boot = Boot::new();
    for (image, limit) in images.iter().zip([BW, OPS, &format!("{BW},group=g"), "group=g"]) {
        // The host counts what a thread reads by system calls.
        boot = boot.args(&["--disk", &format!("path={},readonly=on,engine=sync,{limit}", image.path)]);
    }
    // There is always another request waiting, and none takes as long as its limit makes it wait.
    let command = "for d in b c d e; do k=16k; [ $d = c ] && k=4k; for j in 1 2; do \
                   dd if=/dev/vd$d of=/dev/null bs=$k iflag=direct & done; done; i=0; while :; do i=$((i+1)); \
                   read up x < /proc/uptime; line=tick:$i:$up; \
                   for d in b c d e; do read r m s x < /sys/block/vd$d/stat; line=$line:$s; done; \
                   read up x < /proc/uptime; echo $line:$up:end; sleep 1; done";
    let start = Instant::now();
    let mut vm = boot.say(&format!("vmm.run=\"{command}\"")).start();
    let mut ticks = 0;
    let mut tick = |vm: &mut Running| {
        ticks += 1;
        let line = vm.line(&format!("tick:{ticks}:"), ":end");
        (Sample::of_host(vm, start), Sample::of_guest(&line))
    };
    for _ in 0..SETTLED {
        tick(&mut vm);
    }
    // A machine that is too busy to let its guest ask is nobody's promise: then there is another window.
    let exact = (0..5).any(|_| {
        let first = tick(&mut vm);
        let mut last = tick(&mut vm);
        while last.0.since(&first.0).0 < WINDOW || last.1.since(&first.1).0 < WINDOW {
            last = tick(&mut vm);
        }
        is_exact("host", &first.0, &last.0) & is_exact("guest", &first.1, &last.1)
    });
    assert!(exact, "in {:?}, no ten seconds gave all that the limits allow", start.elapsed());
}
