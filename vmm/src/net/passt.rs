// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! passt (<https://passt.top>): another one's, by its socket, or one of our own.
//!
//! One of our own gets one end of a pair of sockets as its standard input. When the other end is closed, it quits: so it
//! ends with the VM, however that ends, and nothing else has to see to it. It isn't told to go to the background: its own
//! user, mount, IPC and UTS namespaces and its seccomp filter it has all the same, but no PID namespace, which only a
//! process that forks can have.

use std::fs::{File, Permissions};
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devices::throttle::Throttle;
use devices::virtio::net::{Backend, Reconnect};

use super::name_servers::NameServers;
use super::{ports, sys};
use crate::config::{Protocol, UserNet};

/// The program.
const PROGRAM: &str = "passt";
/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most bytes of what it said that are looked at.
const MAX_SAID: usize = 64 << 10;
/// The most characters of its last line that are shown.
const MAX_SHOWN: usize = 300;
/// How it is had.
pub(crate) const INSTALL: &str = "apt-get install passt";

/// Where the program is, if it is installed.
pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)).find(|candidate| candidate.is_file())
}

/// Connects to a passt that runs.
pub(super) fn connect(path: &Path) -> Result<Backend, String> {
    let is_socket = std::fs::metadata(path).map_or(true, |found| found.file_type().is_socket());
    let socket = sys::connect(path).map_err(|error| match error.kind() {
        _ if !is_socket => "is no socket: give that of a passt, which 'passt --socket PATH' makes".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket: start 'passt --socket PATH' first".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens there: start 'passt --socket PATH' first".to_owned(),
        io::ErrorKind::WouldBlock => "takes nobody just now: another program may have it".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be used by this user".to_owned(),
        _ => format!("can't be connected to: {error}"),
    })?;
    Ok(Backend::Stream { socket, reconnect: Some(Box::new(Again(path.to_owned()))) })
}

/// Connects to a socket again.
#[derive(Debug)]
struct Again(PathBuf);

impl Reconnect for Again {
    fn try_connect(&mut self) -> io::Result<UnixStream> {
        sys::connect(&self.0)
    }
}

/// A passt of our own. It is gone when this is.
#[derive(Debug)]
pub(crate) struct Passt(Arc<Mutex<Process>>);

#[derive(Debug)]
struct Process {
    program: PathBuf,
    arguments: Vec<String>,
    /// Nothing once the VM has ended.
    running: Option<Running>,
    ended: bool,
    /// Its ends, which a guest or a network may bring about.
    restarts: Throttle,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// What it says. It never waits for us to read that; what there is no room for is lost.
    said: PipeReader,
    /// Where it says that it is ready, which it wouldn't survive if nobody could read that.
    ready: PipeReader,
}

impl Passt {
    /// Starts it, and waits until it is ready or has said what is wrong.
    pub(super) fn start(user: &UserNet, mtu: Option<u16>) -> Result<(Self, Backend), String> {
        user.hostfwd.iter().try_for_each(ports::check)?;
        let missing = || format!("{PROGRAM} is not installed: '{INSTALL}' as root");
        let program = find().ok_or_else(missing)?;
        let arguments = arguments(user, mtu, NameServers::find());
        let (socket, mut running) = spawn(&program, &arguments).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => format!("{} can't be started: {error}", program.display()),
        })?;
        // It writes its number when it is ready, and nothing if it ends before.
        if !sys::is_readable_within(&running.ready, PATIENCE).unwrap_or_default() {
            let _ = running.child.kill();
            let _ = running.child.wait();
            return Err(format!("{PROGRAM} wasn't ready within {PATIENCE:?}"));
        }
        let mut number = [0; 32];
        match running.ready.read(&mut number) {
            Ok(1..) => (),
            _ => {
                let status = running.child.wait().map_err(|error| format!("{PROGRAM} can't be waited for: {error}"))?;
                let said = last_line(&mut running.said);
                return Err(said.map_or_else(|| format!("{PROGRAM} ended: {status}"), |line| explain(&line)));
            }
        }
        let process = Process { program, arguments, running: Some(running), ended: false, restarts: Throttle::new() };
        let passt = Self(Arc::new(Mutex::new(process)));
        let reconnect = Box::new(AnotherOne(passt.0.clone()));
        Ok((passt, Backend::Stream { socket, reconnect: Some(reconnect) }))
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        let mut process = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        process.ended = true;
        if let Some(mut running) = process.running.take() {
            // It has quit, or is about to, as the card's socket is closed by now: whoever has made a card of it has seen to
            // that. If there was never a card, this is what ends it.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

/// Starts a passt in place of one that has ended.
#[derive(Debug)]
struct AnotherOne(Arc<Mutex<Process>>);

impl Reconnect for AnotherOne {
    fn try_connect(&mut self) -> io::Result<UnixStream> {
        let mut process = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if process.ended {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if let Some(mut before) = process.running.take() {
            // Whatever it is at: without its socket it is of no use, and its ports are to be free.
            let _ = before.child.kill();
            let status = before.child.wait()?;
            let said = last_line(&mut before.said).map(|line| format!(": {line}")).unwrap_or_default();
            if let Some(times) = process.restarts.hit() {
                tracing::warn!(times, "{PROGRAM} has ended ({status}) and is started again{said}");
            }
        }
        // Should it fail, its socket is closed at once, and this is called again after a pause.
        let (socket, running) = spawn(&process.program, &process.arguments)?;
        process.running = Some(running);
        Ok(socket)
    }
}

fn arguments(user: &UserNet, mtu: Option<u16>, found: NameServers) -> Vec<String> {
    // What it logs is only read when it has ended.
    let mut arguments: Vec<String> =
        ["--foreground", "--quiet", "--stderr", "--one-off", "--fd", "0", "--pid", "/proc/self/fd/1"]
            .map(str::to_owned)
            .to_vec();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    for forward in &user.hostfwd {
        let option = match forward.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        let address = forward.address.map(|address| format!("{address}/")).unwrap_or_default();
        add(option, format!("{address}{}:{}", forward.host_port, forward.guest_port));
    }
    let mut dns = user.dns.clone();
    if !user.loopback && dns.is_empty() {
        match found {
            NameServers::Usual => (),
            NameServers::These(addresses) => dns = addresses,
            NameServers::OutOfReach(address) => tracing::warn!(
                "the guest gets no name server: the host's, {address}, is at its loopback: give dns=ADDR, or loopback=on"
            ),
        }
    }
    for address in dns {
        add("--dns", address.to_string());
    }
    if let Some(mtu) = mtu {
        add("--mtu", mtu.to_string());
    }
    if !user.loopback {
        arguments.push("--no-map-gw".to_owned());
    }
    arguments
}

/// Starts it: our end of its socket, and the process.
fn spawn(program: &Path, arguments: &[String]) -> io::Result<(UnixStream, Running)> {
    let (socket, theirs) = UnixStream::pair()?;
    let (ready, number) = io::pipe()?;
    let (said, errors) = io::pipe()?;
    sys::never_wait(&errors)?;
    sys::never_wait(&said)?;
    let number = File::from(OwnedFd::from(number));
    // Started by root, it is somebody else when it opens this.
    number.set_permissions(Permissions::from_mode(0o622))?;
    let mut command = Command::new(program);
    // It needs nothing of what is told to us by variables, which may be secrets.
    command.env_clear().args(arguments).stdin(OwnedFd::from(theirs)).stdout(number).stderr(Stdio::from(errors));
    // A Ctrl-C is for us, and a guest that shuts down then may want its network for that.
    command.process_group(0);
    let child = command.spawn()?;
    Ok((socket, Running { child, said, ready }))
}

/// The last line of what it said that matters.
fn last_line(said: &mut PipeReader) -> Option<String> {
    // Until it would have to wait: whoever else has this pipe is none of our business.
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = said.read(&mut part) {
        bytes.extend_from_slice(&part[..length]);
        if bytes.len() >= MAX_SAID {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Failed to send "));
    lines.next_back().map(|line| line.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect())
}

/// What it said, in our words where there is more to say.
fn explain(line: &str) -> String {
    match line {
        "External interface not usable" => format!(
            "{PROGRAM} finds no interface with a default route on this host, and so no addresses for the guest: see 'ip route'"
        ),
        _ => format!("{PROGRAM} says: {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_wants_becomes_options() {
        let user = UserNet {
            hostfwd: ["tcp:127.0.0.1:8080-:80", "udp:[::1]:53-:5353", "tcp:22-:22"]
                .map(|text| text.parse().unwrap())
                .into(),
            dns: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            loopback: false,
        };
        let expected = "--tcp-ports 127.0.0.1/8080:80 --udp-ports ::1/53:5353 --tcp-ports 22:22 --dns 192.0.2.1 \
                        --dns 2001:db8::1 --mtu 1400 --no-map-gw";
        let all = arguments(&user, Some(1400), NameServers::These(vec!["192.0.2.7".parse().unwrap()])).join(" ");
        assert!(all.ends_with(expected), "{all}");
    }

    #[test]
    fn the_hosts_loopback_is_out_of_reach_unless_the_user_wants_it() {
        let behind = || NameServers::These(vec!["192.0.2.7".parse().unwrap()]);
        let of = |loopback, found| {
            let user = UserNet { loopback, ..UserNet::default() };
            arguments(&user, None, found).join(" ").split_once("/proc/self/fd/1").unwrap().1.to_owned()
        };
        assert_eq!(of(false, NameServers::Usual), " --no-map-gw");
        assert_eq!(of(false, behind()), " --dns 192.0.2.7 --no-map-gw");
        assert_eq!(of(false, NameServers::OutOfReach("::1".parse().unwrap())), " --no-map-gw");
        assert_eq!(of(true, behind()), "", "by the router's address it reaches what the host has at its loopback");
    }

    #[test]
    fn what_passt_said_last_is_found_behind_what_does_not_matter() {
        use std::io::Write;
        let (mut said, mut errors) = io::pipe().unwrap();
        sys::never_wait(&said).unwrap();
        assert_eq!(last_line(&mut said), None);
        errors
            .write_all(
                b"Don't run as root. Changing to nobody...\nFailed to bind\n\nFailed to send 9 bytes to syslog\n",
            )
            .unwrap();
        assert_eq!(last_line(&mut said).as_deref(), Some("Failed to bind"));
    }
}
