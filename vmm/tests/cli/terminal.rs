// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! On a terminal: the keys work, and the terminal is as it was before on every way out.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::pty;
use rustix::termios::{self, Termios};
use tempfile::TempDir;

use crate::skip::without_kvm;
use crate::{elf, programs, vmm};

struct OnTerminal {
    master: File,
    /// Keeps the settings alive when the VM has ended.
    slave: OwnedFd,
    before: Termios,
    child: Child,
    seen: String,
    _dir: TempDir,
}

/// `None` where there is no KVM.
fn start(program: fn() -> &'static [u8]) -> Option<OnTerminal> {
    if without_kvm() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    fs::write(&kernel, elf::wrap(program(), false)).unwrap();
    let mut command = vmm(&["run", "--memory", "32M", "--log-level", "error", "--kernel"]);
    command.arg(&kernel);
    Some(OnTerminal::start(command, dir))
}

impl OnTerminal {
    fn start(mut command: Command, dir: TempDir) -> Self {
        let master =
            pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY | pty::OpenptFlags::CLOEXEC).unwrap();
        pty::unlockpt(&master).unwrap();
        let name = pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave: OwnedFd = File::options().read(true).write(true).open(name).unwrap().into();
        let before = termios::tcgetattr(&slave).unwrap();
        let standard = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(standard()).stdout(standard()).stderr(standard()).spawn().unwrap();
        Self { master: master.into(), slave, before, child, seen: String::new(), _dir: dir }
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        termios::tcsetwinsize(&self.slave, size).unwrap();
    }

    fn expect(&mut self, text: &str) {
        let mut bytes = [0; 256];
        while !self.seen.contains(text) {
            let len = self.master.read(&mut bytes).unwrap();
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
    }

    /// Waits for the end; the terminal must be as it was.
    fn wait(mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        let after = termios::tcgetattr(&self.slave).unwrap();
        let settings = |t: &Termios| (t.input_modes, t.output_modes, t.control_modes, t.local_modes);
        assert_eq!(settings(&after), settings(&self.before));
        status
    }

    fn is_raw(&self) -> bool {
        !termios::tcgetattr(&self.slave).unwrap().local_modes.contains(termios::LocalModes::ICANON)
    }
}

#[test]
fn ctrl_a_x_ends_the_vm_and_restores_the_terminal() {
    let Some(mut vm) = start(programs::SPIN) else { return };
    vm.expect("R");
    assert!(vm.is_raw());
    vm.master.write_all(b"\x01x").unwrap();
    vm.expect("vmm: the VM was stopped");
    assert_eq!(vm.wait().code(), Some(4));
}

#[test]
fn the_keys_work_when_the_guest_reads_nothing() {
    let Some(mut vm) = start(programs::SPIN) else { return };
    vm.expect("R");
    // More than the port holds.
    vm.master.write_all(&[b'y'; 500]).unwrap();
    vm.master.write_all(b"\x01x").unwrap();
    assert_eq!(vm.wait().code(), Some(4));
}

#[test]
fn ctrl_a_h_shows_the_keys_and_ctrl_a_p_presses_the_power_button() {
    let Some(mut vm) = start(programs::POWER_BUTTON) else { return };
    vm.expect("R");
    vm.master.write_all(b"\x01h").unwrap();
    vm.expect("Ctrl-a x       end the VM at once");
    vm.master.write_all(b"\x01p").unwrap();
    assert_eq!(vm.wait().code(), Some(0));
}

#[test]
fn what_is_typed_reaches_the_guest_ctrl_c_included() {
    let Some(mut vm) = start(programs::ECHO) else { return };
    // The program is ready for input from its first instruction on, but the terminal has to be raw.
    while !vm.is_raw() {
        std::thread::yield_now();
    }
    vm.master.write_all(b"a\x03b\x01\x01q").unwrap();
    vm.expect("a\x03b\x01");
    assert_eq!(vm.wait().code(), Some(0));
}

#[test]
fn a_signal_restores_the_terminal() {
    let Some(mut vm) = start(programs::POWER_BUTTON) else { return };
    vm.expect("R");
    let pid = rustix::process::Pid::from_child(&vm.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(vm.wait().code(), Some(0));
}

#[test]
fn a_crash_restores_the_terminal_and_is_told_in_one_line() {
    let Some(mut vm) = start(programs::TRIPLE_FAULT) else { return };
    vm.expect("vmm: error: the guest crashed: triple fault on vCPU 0\r\n");
    assert_eq!(vm.wait().code(), Some(3));
}

/// `vmm console` on a terminal, and the sockets of what would be a VM.
fn attach() -> (OnTerminal, UnixListener, UnixDatagram) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let sizes = UnixDatagram::bind(dir.path().join("s.size")).unwrap();
    let mut command = vmm(&["console"]);
    command.arg(&socket);
    (OnTerminal::start(command, dir), listener, sizes)
}

#[test]
fn a_console_passes_what_is_typed_and_its_size_and_is_left_by_keys() {
    let (mut console, listener, sizes) = attach();
    let (mut guest, _) = listener.accept().unwrap();
    guest.write_all(b"hello").unwrap();
    console.expect("hello");
    assert!(console.is_raw());
    // Where it is nobody's terminal, no signal says that its size has changed: the size at the start is what can be seen.
    console.resize(132, 43);
    console.master.write_all(b"\x03ls\r\x01\x01\x01h").unwrap();
    let mut typed = [0; 5];
    guest.read_exact(&mut typed).unwrap();
    assert_eq!(&typed, b"\x03ls\r\x01");
    console.expect("leave; the VM runs on");
    let told = Command::new("kill").args(["-WINCH", &console.child.id().to_string()]).status().unwrap();
    assert!(told.success());
    let mut size = [0; 16];
    let len = sizes.recv(&mut size).unwrap();
    assert_eq!(&size[..len], b"132 43\n");
    console.master.write_all(b"\x01d").unwrap();
    console.expect("vmm: left");
    assert_eq!(console.wait().code(), Some(0));
}

#[test]
fn a_console_whose_vm_ends_or_that_gets_a_signal_restores_the_terminal() {
    let (mut console, listener, _sizes) = attach();
    drop(listener.accept().unwrap());
    console.expect("vmm: the console has closed");
    assert_eq!(console.wait().code(), Some(0));
    let (mut console, listener, _sizes) = attach();
    let (mut guest, _) = listener.accept().unwrap();
    guest.write_all(b"hello").unwrap();
    console.expect("hello");
    assert!(Command::new("kill").arg(console.child.id().to_string()).status().unwrap().success());
    console.expect("vmm: left");
    assert_eq!(console.wait().code(), Some(0));
}

#[test]
fn a_console_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none");
    let output = vmm(&["console"]).arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let expected = format!("vmm: error: console {}: there is no such socket: give", path.display());
    assert!(String::from_utf8_lossy(&output.stderr).starts_with(&expected), "{output:?}");
    drop(UnixListener::bind(&path).unwrap());
    let output = vmm(&["console"]).arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).ends_with("no VM listens there any more\n"), "{output:?}");
}
