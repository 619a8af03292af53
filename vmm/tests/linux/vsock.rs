// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sockets between programs of a guest and of its host, over both transports.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::rig::{Boot, Image, Running, path};

/// Of one transfer.
const BYTES: u64 = 64 << 20;
/// The guest's port that `agent serve` has, and the host's.
const PORT: u32 = 5000;

/// How many transfers there are in each direction.
fn rounds() -> u64 {
    std::env::var("VMM_VSOCK_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("VMM_AGENT").unwrap_or_else(|| "agent".into()));
    command.args(arguments);
    command
}

/// What an `agent` says that comes to its end.
fn run_agent(arguments: &[&str]) -> String {
    let output = agent(arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// An `agent serve` of the host's, which goes when it is dropped.
struct Served(Child);

impl Served {
    fn at(socket: &Path) -> Self {
        Self::start(&format!("unix:{}", path(socket)))
    }

    fn start(address: &str) -> Self {
        let mut child = agent(&["serve", address]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 13];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"agent: ready\n");
        Self(child)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A guest with a socket device, which serves, and the folder of its socket.
struct Guest {
    vm: Running,
    folder: TempDir,
}

impl Guest {
    fn boot(transport: &str, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = Image::script(&format!("agent serve vsock:{PORT} &\n{script}\nread line < /dev/ttyS0\n"));
        let keys = format!("cid=7,socket={},transport={transport}", path(&folder.path().join("v")));
        let vm = Boot::new().args(&["--vsock", &keys]).script(&script).stdin().start();
        let mut guest = Self { vm, folder };
        guest.vm.expect("agent: ready");
        guest
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("v")
    }

    fn port_of_host(&self, port: u32) -> std::path::PathBuf {
        self.folder.path().join(format!("v_{port}"))
    }

    /// Where programs of the host reach the guest's server.
    fn address(&self) -> String {
        format!("hybrid:{}:{PORT}", path(&self.socket()))
    }

    fn end(mut self) -> String {
        self.vm.type_in("end\n");
        let ended = self.vm.wait();
        assert_eq!((ended.status, ended.errors.as_str()), (Some(0), ""), "{}", ended.output);
        assert!(!self.folder.path().join("v").exists(), "the socket has outlived its VM");
        ended.output
    }
}

/// Of what has gone there and back, in nanoseconds.
fn median(said: &str) -> u64 {
    let word = said.split_whitespace().find_map(|word| word.strip_prefix("median_ns="));
    word.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
}

/// Waits until the other side has closed.
fn wait_for_end(mut stream: &UnixStream) {
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn streams_pass_both_ways_a_thousand_at_once_and_each_half_closes_at_once() {
    for transport in ["mmio", "pci"] {
        let rounds = rounds();
        let mut guest = Guest::boot(
            transport,
            &format!(
                "read line < /dev/ttyS0\n\
                 agent echo vsock:2:{PORT} 100 || exit 1; agent many vsock:2:{PORT} 1000 || exit 1\n\
                 i=0; while [ $i -lt {rounds} ]; do i=$((i + 1))\n\
                 agent send vsock:2:{PORT} {BYTES} || exit 1; agent receive vsock:2:{PORT} {BYTES} || exit 1; done\n\
                 agent half-close vsock:2:{PORT} 50 || exit 1; echo done from the guest"
            ),
        );
        // Whoever listens by now is found.
        let _server = Served::at(&guest.port_of_host(PORT));
        let to_guest = guest.address();
        run_agent(&["echo", &to_guest, "100"]);
        run_agent(&["many", &to_guest, "1000"]);
        for _ in 0..rounds {
            run_agent(&["send", &to_guest, &BYTES.to_string()]);
            run_agent(&["receive", &to_guest, &BYTES.to_string()]);
        }
        let median_from_host = median(&run_agent(&["half-close", &to_guest, "50"]));
        guest.vm.type_in("go\n").expect("done from the guest");
        let output = guest.end();
        let line = output.lines().find(|line| line.contains("end half-close")).unwrap_or_else(|| panic!("{output}"));
        // Whoever passes a half-close on when something else happens takes seconds.
        let medians = [median_from_host, median(line)].map(|nanoseconds| nanoseconds / 1000);
        println!("{transport}: half-closes take {medians:?} µs from host and guest");
        assert!(medians.iter().all(|micros| *micros < 50_000), "{transport}: {medians:?} µs");
    }
}

#[test]
fn programs_of_the_host_reach_a_guest_by_af_vsock_where_the_kernel_serves_it() {
    for transport in ["mmio", "pci"] {
        let cid = if transport == "mmio" { 1234 } else { u32::MAX - 1 };
        let script = Image::script(&format!(
            "agent serve vsock:{PORT} & read line < /dev/ttyS0\n\
             agent echo vsock:2:{PORT} 100 || exit 1; agent many vsock:2:{PORT} 100 || exit 1\n\
             agent send vsock:2:{PORT} {BYTES} && agent receive vsock:2:{PORT} {BYTES} || exit 1; echo all is done\n"
        ));
        let keys = format!("cid={cid},vhost=on,transport={transport}");
        let mut vm = Boot::new().args(&["--vsock", &keys]).script(&script).stdin().start();
        vm.expect("agent: ready");
        let _server = Served::start(&format!("vsock:{PORT}"));
        let to_guest = format!("vsock:{cid}:{PORT}");
        run_agent(&["echo", &to_guest, "100"]);
        run_agent(&["many", &to_guest, "100"]);
        run_agent(&["send", &to_guest, &BYTES.to_string()]);
        run_agent(&["receive", &to_guest, &BYTES.to_string()]);
        // Two guests can't have the same context ID.
        let other = Boot::new().args(&["--vsock", &format!("cid={cid},vhost=on")]).run();
        assert_eq!(other.status, Some(2), "{}", other.errors);
        let expected =
            format!("the context ID {cid} is taken by another virtual machine of this host: give another one");
        assert!(other.errors.contains(&expected), "{}", other.errors);
        vm.type_in("go\n").expect("all is done");
        vm.wait().assert_clean();
    }
}

#[test]
fn whoever_ends_has_the_other_see_it_and_where_nobody_listens_there_is_an_error() {
    let mut guest = Guest::boot(
        "mmio",
        "agent echo vsock:2:1 1; agent echo vsock:1234:1 1\n\
         read line < /dev/ttyS0; agent echo vsock:2:6000 1; echo was refused\n\
         read line < /dev/ttyS0; killall agent; echo was killed",
    );
    guest.vm.expect("vsock:2:1: Connection reset by peer");
    guest.vm.expect("vsock:1234:1: ");
    // A listener that goes away while the guest waits for an answer.
    let listener = UnixListener::bind(guest.port_of_host(6000)).unwrap();
    guest.vm.type_in("go\n");
    let (stream, _) = listener.accept().unwrap();
    drop((stream, listener));
    guest.vm.expect("was refused");
    // A guest's program that is killed in the middle.
    let mut stream = UnixStream::connect(guest.socket()).unwrap();
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).unwrap();
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"OK ");
    stream.write_all(b"receive 1000000000000\n").unwrap();
    stream.read_exact(&mut [0; 4096]).unwrap();
    guest.vm.type_in("kill it\n").expect("was killed");
    wait_for_end(&stream);
    // Nobody listens there any more.
    let stream = UnixStream::connect(guest.socket()).unwrap();
    (&stream).write_all(format!("CONNECT {PORT}\n").as_bytes()).unwrap();
    wait_for_end(&stream);
    guest.end();
}

#[test]
fn the_service_manager_is_told_what_the_guest_says_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let script = Image::script(
        "agent notify STATUS=half-way && agent notify 'MAINPID=1' && agent notify READY=1 && agent notify STATUS=up && echo told\n",
    );
    for vsock in [None, Some(format!("cid=9,socket={},transport=pci", path(&folder.path().join("v"))))] {
        let boot = vsock.iter().fold(Boot::new(), |boot, keys| boot.args(&["--vsock", keys]));
        let boot = boot.args(&["--notify"]).env("NOTIFY_SOCKET", &path(&socket)).script(&script);
        let ended = boot.run();
        ended.assert_clean().assert_says("told\r\n");
        let mut bytes = [0; 100];
        for expected in ["STATUS=half-way\n", "READY=1\n", "STATUS=up\n"] {
            let len = manager.recv(&mut bytes).unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes[..len]), expected);
        }
    }
    // Run by hand.
    let script = Image::script("agent notify READY=1\n");
    let ended = Boot::new().args(&["--notify"]).script(&script).run();
    assert!(ended.errors.contains("NOTIFY_SOCKET is not set, so there is nobody to tell"), "{}", ended.errors);
    ended.assert_says("the machine has no credential vmm.notify_socket");
}

#[test]
fn a_vm_that_ends_ends_its_streams_and_lets_its_socket_be_used_again() {
    let mut guest = Guest::boot("pci", "");
    let mut stream = UnixStream::connect(guest.socket()).unwrap();
    stream.write_all(format!("CONNECT {PORT}\nreceive 1000000000000\n").as_bytes()).unwrap();
    stream.read_exact(&mut [0; 1 << 16]).unwrap();
    guest.vm.signal("KILL");
    wait_for_end(&stream);
    let (socket, folder) = (guest.socket(), guest.folder);
    drop(guest.vm);
    assert!(socket.exists(), "whoever is killed leaves it");
    let script = Image::script("echo starts; read line < /dev/ttyS0\n");
    let keys = format!("cid=7,socket={}", path(&socket));
    let mut vm = Boot::new().args(&["--vsock", &keys]).script(&script).stdin().start();
    vm.expect("starts");
    // The same socket for another one.
    let other = Boot::new().args(&["--vsock", &keys]).run();
    assert_eq!(other.status, Some(2), "{}", other.errors);
    assert!(other.errors.contains("is taken: a program listens there"), "{}", other.errors);
    vm.type_in("end\n");
    vm.wait().assert_clean();
    drop(folder);
}
