// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The virtio console: `hvc0` and named ports, over both transports.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::{pty, termios};
use tempfile::TempDir;

use crate::rig::{Boot, CMDLINE, Ended, Image, Running, guest_file, path, vmm};

/// Whoever is at a socket, and what was seen.
struct Client {
    stream: UnixStream,
    seen: Vec<u8>,
}

impl Client {
    fn attach(socket: &Path) -> Self {
        Self { stream: UnixStream::connect(socket).unwrap(), seen: Vec::new() }
    }

    fn expect(&mut self, text: &str) -> &mut Self {
        let mut bytes = [0; 4096];
        while !String::from_utf8_lossy(&self.seen).contains(text) {
            let len = self.stream.read(&mut bytes).unwrap();
            assert!(len > 0, "{text:?} is not in {}", String::from_utf8_lossy(&self.seen));
            self.seen.extend_from_slice(&bytes[..len]);
        }
        self
    }

    fn type_in(&mut self, text: &str) -> &mut Self {
        self.stream.write_all(text.as_bytes()).unwrap();
        self
    }
}

fn tell_size(socket: &Path, text: &str) {
    let to = format!("{}.size", path(socket));
    UnixDatagram::unbound().unwrap().send_to(text.as_bytes(), to).unwrap();
}

/// A guest with a shell at `hvc0`, which has said something before.
fn boot(transport: &str, keys: &[&str], script: &str) -> (Running, Image) {
    let script = Image::script(&format!(
        "echo said before anybody came > /dev/hvc0\n{script}\necho is at hvc0\n\
         setsid sh -c 'stty -echo; exec sh -i' < /dev/hvc0 > /dev/hvc0 2>&1\n"
    ));
    let consoles: Vec<&str> = keys.iter().flat_map(|keys| ["--console", keys]).collect();
    let mut vm = Boot::new().args(&consoles).args(&["--transport", transport]).script(&script).start();
    vm.expect("is at hvc0");
    (vm, script)
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hvc0");
    (folder, socket)
}

fn assert_ended(ended: &Ended) {
    assert_eq!((ended.status, ended.errors.as_str()), (Some(0), ""), "{}", ended.output);
}

#[test]
fn who_comes_late_sees_the_last_output_types_and_may_come_again() {
    for transport in ["mmio", "pci"] {
        let (folder, socket) = folder();
        let log = folder.path().join("log");
        let keys = format!("socket={},log={}", path(&socket), path(&log));
        let (vm, _script) = boot(transport, &[&keys], "");
        let mut client = Client::attach(&socket);
        client.expect("said before anybody came").type_in("echo $((6 * 7))-first\n").expect("42-first");
        // Columns and rows are told the other way round than stty has them.
        tell_size(&socket, "132 43");
        client.type_in("until [ \"$(stty size)\" = '43 132' ]; do sleep 0.1; done; echo it has its si''ze\n");
        client.expect("it has its size");
        drop(client);
        let mut client = Client::attach(&socket);
        // One long line: a Linux terminal hands each end of a line over by itself.
        client.expect("42-first").type_in("head -c 70000 /dev/zero | tr '\\0' x; echo $((6 * 7))-second\n");
        client.expect("42-second");
        // More than 64 KiB since: the beginning is gone.
        let mut last = Client::attach(&socket);
        last.expect("42-second");
        assert!(!String::from_utf8_lossy(&last.seen).contains("first"));
        last.type_in("exit\n");
        assert_ended(&vm.wait());
        assert!(!socket.exists() && !folder.path().join("hvc0.size").exists(), "a socket has outlived its VM");
        let log = fs::read_to_string(&log).unwrap();
        let long = "x".repeat(70_000);
        for text in ["said before anybody came", "42-first\r\n", "it has its size", &long, "42-second"] {
            assert!(log.contains(text), "{text:?} is not in the log");
        }
    }
}

#[test]
fn a_named_port_is_a_stream_of_bytes() {
    for transport in ["mmio", "pci"] {
        let (folder, socket) = folder();
        let (named, another) = (folder.path().join("named"), folder.path().join("another"));
        let keys = [
            format!("socket={}", path(&socket)),
            format!("socket={},name=org.example.0", path(&named)),
            format!("file={},name=another", path(&another)),
        ];
        let script = "find() { for port in /sys/class/virtio-ports/*; do\n\
                    [ \"$(cat $port/name 2> /dev/null)\" = $1 ] && echo /dev/${port##*/}; done; }\n\
                    cat < /proc/cpuinfo > $(find another)\n\
                    (exec 3<> $(find org.example.0); head -c 1000000 <&3 | md5sum >&3\n\
                    read line <&3; echo got $line >&3; read line <&3) &";
        let (vm, _script) = boot(transport, &[&keys[0], &keys[1], &keys[2]], script);
        let mut client = Client::attach(&named);
        let bytes: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
        client.stream.write_all(&bytes).unwrap();
        // Of those bytes.
        client.expect(&format!("{}  -\n", md5(&bytes)));
        client.type_in("hello\n").expect("got hello");
        tell_size(&socket, "100 30");
        let mut console = Client::attach(&socket);
        console.type_in("sleep 1; echo size: $(stty size).\nexit\n").expect("size: ");
        console.expect(".\r\n");
        println!("{transport}: {}", String::from_utf8_lossy(&console.seen));
        drop(client);
        assert_ended(&vm.wait());
        assert!(fs::read_to_string(another).unwrap().contains("model name"));
    }
}

/// By a tool of the host's.
fn md5(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let output = Command::new("md5sum").arg(file.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_program_can_use_vmm_console_and_sees_the_end() {
    let (_folder, socket) = folder();
    let none = vmm(&["console", &path(&socket)]).output().unwrap();
    assert_eq!(none.status.code(), Some(2));
    let (vm, _script) = boot("mmio", &[&format!("socket={}", path(&socket))], "");
    let mut console = vmm(&["console", &path(&socket)]);
    let mut console = console.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    console.stdin.take().unwrap().write_all(b"echo $((6 * 7))-here; exit\n").unwrap();
    let output = console.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{said}");
    assert!(said.contains("said before anybody came") && said.contains("42-here"), "{said}");
    assert_ended(&vm.wait());
}

#[test]
fn a_console_can_be_on_standard_input_and_output() {
    let script = Image::script("exec < /dev/hvc0 > /dev/hvc0; echo listens; read line; echo got $line; read line\n");
    let mut vm = Boot::new().args(&["--console", "stdio"]).script(&script).stdin().start();
    // What is typed before a program has the terminal may be lost to Linux.
    vm.expect("listens").type_in("hello\n").expect("got hello").type_in("end\n");
    assert_ended(&vm.wait());
    // The serial port can't be there too.
    let both = Boot::new().args(&["--console", "stdio", "--serial", "stdio"]).run();
    assert_eq!(both.status, Some(2));
    assert!(both.errors.contains("leave --serial out"), "{}", both.errors);
}

/// `vmm run` with a script, by which a test says what its standard streams are.
fn run(arguments: &[&str], script: &Image) -> Command {
    let guest = |name| path(&guest_file(name));
    let mut command = vmm(&["run", "--initrd"]);
    command.args([
        &guest("initrd"),
        "--kernel",
        &guest("vmlinux"),
        "--rootfs",
        &format!("{},ro", guest("rootfs.ext4")),
    ]);
    command.args(["--disk", &format!("path={},readonly=on", script.path)]).args(arguments);
    command.args(["--cmdline", &format!("{CMDLINE} vmm.run=\"sh /dev/vdb\"")]);
    command
}

/// Reads until `text` has come.
fn read_until(terminal: &mut fs::File, seen: &mut String, text: &str) {
    let mut bytes = [0; 512];
    while !seen.contains(text) {
        let len = terminal.read(&mut bytes).unwrap();
        assert!(len > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&bytes[..len]));
    }
}

#[test]
fn the_size_of_a_terminal_on_standard_input_reaches_the_guest() {
    let script = Image::script(
        "exec < /dev/hvc0 > /dev/hvc0\n\
         for size in '43 132' '30 100'; do until [ \"$(stty size)\" = \"$size\" ]; do sleep 0.1; done; echo is $size; done\n",
    );
    let master = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY | pty::OpenptFlags::CLOEXEC).unwrap();
    pty::unlockpt(&master).unwrap();
    let name = pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = fs::File::options().read(true).write(true).open(name).unwrap();
    let resize = |columns, rows| {
        let size = termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        termios::tcsetwinsize(&slave, size).unwrap();
    };
    let (mut master, mut seen, standard) =
        (fs::File::from(master), String::new(), || Stdio::from(slave.try_clone().unwrap()));
    resize(132, 43);
    let mut command = run(&["--console", "stdio"], &script);
    let mut child = command.stdin(standard()).stdout(standard()).stderr(standard()).spawn().unwrap();
    read_until(&mut master, &mut seen, "is 43 132");
    resize(100, 30);
    // It is nobody's terminal, so that nobody sends the signal.
    assert!(Command::new("kill").args(["-WINCH", &child.id().to_string()]).status().unwrap().success());
    read_until(&mut master, &mut seen, "is 30 100");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_pseudo_terminal_is_named_and_can_be_used() {
    let script = Image::script(
        "exec 3<> /dev/hvc0; stty -F /dev/hvc0 -echo; echo ready >&3; read line <&3; echo got $line >&3\n",
    );
    let mut child = run(&["--serial", "null", "--console", "pty"], &script);
    let mut child = child.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    let name = line.trim().strip_prefix("vmm: console hvc0 is ").unwrap_or_else(|| panic!("{line}"));
    let mut terminal = fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut seen = String::new();
    read_until(&mut terminal, &mut seen, "ready");
    terminal.write_all(b"hello\n").unwrap();
    read_until(&mut terminal, &mut seen, "got hello");
    drop(terminal);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
