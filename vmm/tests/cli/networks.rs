// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Networks that can't be had, as far as that takes no privilege: one line that names what is wrong, before KVM is asked for
//! anything.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::{elf, programs, text, vmm};

/// A directory with a good kernel.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kernel"), elf::wrap(programs::RESET(), false)).unwrap();
    dir
}

fn assert_refused(output: &Output, says: &str) {
    let (status, out, err) = text(output);
    assert_eq!((status, out.as_str(), err.lines().count()), (Some(2), "", 1), "{says}: {err}");
    assert!(err.starts_with(&format!("vmm: error: net {says}")), "{says}: {err}");
}

fn run(dir: &Path, nets: &[&str]) -> Command {
    let mut command = vmm(&["run", "--kernel", "kernel"]);
    command.args(nets.iter().flat_map(|net| ["--net", net])).current_dir(dir);
    command
}

fn refused(dir: &Path, net: &str, says: &str) {
    assert_refused(&run(dir, &[net]).output().unwrap(), says);
}

#[test]
fn sockets_that_are_none_of_a_passt_are_named() {
    let dir = folder();
    refused(dir.path(), "passt=absent", "passt absent: there is no such socket: start 'passt --socket PATH' first\n");
    refused(dir.path(), "passt=kernel", "passt kernel: is no socket: ");
    drop(UnixListener::bind(dir.path().join("stale")).unwrap());
    refused(dir.path(), "passt=stale", "passt stale: nobody listens there: ");
}

#[test]
fn ports_that_can_not_be_forwarded_are_named() {
    let dir = folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("tcp:127.0.0.1:{}-:80", taken.local_addr().unwrap().port());
    refused(dir.path(), &format!("user,hostfwd={forward}"), &format!("user: hostfwd={forward}: port "));
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let forward = format!("udp:127.0.0.1:{}-:80", taken.local_addr().unwrap().port());
    refused(dir.path(), &format!("user,hostfwd={forward}"), &format!("user: hostfwd={forward}: port "));
    let forward = "tcp:203.0.113.99:8080-:80";
    let says = format!("user: hostfwd={forward}: 203.0.113.99 is no address of this host\n");
    refused(dir.path(), &format!("user,hostfwd={forward}"), &says);
}

#[test]
fn a_passt_that_is_not_installed_is_named_with_how_to_install_it() {
    let dir = folder();
    let output = run(dir.path(), &["user"]).env("PATH", dir.path()).output().unwrap();
    assert_refused(&output, "user: passt is not installed: 'apt-get install passt' as root\n");
}

#[test]
fn a_passt_that_fails_is_quoted_and_one_that_says_nothing_is_told_of() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder();
    let passt = dir.path().join("passt");
    for (script, says) in [
        (
            "echo first >&2; echo 'Failed to send 9 bytes to syslog' >&2; echo it rains >&2; exit 1",
            "user: passt says: it rains\n",
        ),
        ("exit 3", "user: passt ended: exit status: 3\n"),
    ] {
        std::fs::write(&passt, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&passt, PermissionsExt::from_mode(0o755)).unwrap();
        assert_refused(&run(dir.path(), &["user"]).env("PATH", dir.path()).output().unwrap(), says);
    }
}

#[test]
fn descriptors_that_are_closed_or_no_tap_are_named() {
    let dir = folder();
    refused(
        dir.path(),
        "fd=999",
        "fd 999: descriptor 999 is not open: let whoever starts this program open one there\n",
    );
    let vmm = run(dir.path(), &["fd=9"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 9<kernel", "sh"]).arg(vmm.get_program()).args(vmm.get_args());
    let output = shell.current_dir(dir.path()).output().unwrap();
    assert_refused(&output, "fd 9: descriptor 9 is no tap: let whoever starts this program open one there\n");
}

#[test]
fn interfaces_that_are_no_taps_and_cards_that_are_there_twice_are_named() {
    let dir = folder();
    refused(dir.path(), "tap=lo", "tap lo: is no tap, but another kind of interface\n");
    let output = run(dir.path(), &["tap=lo", "tap=lo"]).output().unwrap();
    assert_refused(&output, "tap lo: another card of this machine has it: give each its own\n");
}
