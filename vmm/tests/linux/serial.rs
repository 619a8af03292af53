// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The serial port, in all its places.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::rig::{Boot, path};

#[test]
fn a_shell_can_be_used_over_standard_input() {
    let mut vm = Boot::new().stdin().say("vmm.then=sh").start();
    vm.expect("hello from the guest:").expect("# ").type_in("echo $((6 * 7))-$((3 + 4))\n");
    vm.expect("42-7").type_in("exit\n");
    vm.wait().assert_clean();
}

#[test]
fn more_input_than_the_port_holds_arrives_whole() {
    let mut vm = Boot::new().stdin().say("vmm.then=sh").start();
    let long = "0123456789".repeat(300);
    vm.expect("# ").type_in("stty -echo -icanon; echo rea''dy; head -c 3000 | md5sum; exit\n").expect("ready");
    vm.type_in(&long);
    let ended = vm.wait();
    ended.assert_clean().assert_says("8681a49920ffd5159feb1ae8fc2afb17");
}

#[test]
fn the_console_can_go_to_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let ended = Boot::new().args(&["--serial", &format!("file={}", path(&log))]).run();
    assert_eq!((ended.status, ended.output.as_str(), ended.errors.as_str()), (Some(0), "", ""));
    assert!(fs::read_to_string(log).unwrap().contains("hello from the guest:"));
}

#[test]
fn the_console_can_go_nowhere() {
    let ended = Boot::new().args(&["--serial", "null"]).run();
    assert_eq!((ended.status, ended.output.as_str(), ended.errors.as_str()), (Some(0), "", ""));
}

#[test]
fn the_console_can_be_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("console");
    let vm = Boot::new().args(&["--serial", &format!("socket={}", path(&socket))]).say("vmm.then=sh").start();
    // The socket is there before the guest runs, but this process may be faster.
    let mut console = loop {
        match UnixStream::connect(&socket) {
            Ok(console) => break console,
            Err(_) => std::thread::yield_now(),
        }
    };
    let mut seen = String::new();
    let mut expect = |console: &mut UnixStream, text: &str| {
        let mut bytes = [0; 512];
        while !seen.contains(text) {
            let len = console.read(&mut bytes).unwrap();
            assert!(len > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
    };
    expect(&mut console, "# ");
    console.write_all(b"echo $((6 * 7))-again; exit\n").unwrap();
    expect(&mut console, "42-again");
    assert_eq!(vm.wait().status, Some(0));
    assert!(!socket.exists());
}
