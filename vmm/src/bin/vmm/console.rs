// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `vmm console`: this terminal at a socket of a VM that runs.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};

use crate::cli::ConsoleArguments;
use crate::escape::{Action, Escape};
use crate::signals::Signals;
use crate::terminal::{self, RawTerminal};
use crate::{STATUS_USAGE, print_error};

/// The exit status when the terminal failed.
const STATUS_HOST: u8 = 1;
/// How many bytes are moved at once.
const CHUNK: usize = 16 << 10;
/// How much is kept of what a person types and the socket has no room for.
const MAX_UNSENT: usize = 64 << 10;

const KEYS: &str = "
Ctrl-a d       leave; the VM runs on
Ctrl-a h       show these keys
Ctrl-a Ctrl-a  send a Ctrl-a to the guest
";

/// Why the terminal isn't at the socket any more.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The keys were pressed, or a signal came.
    Left,
    /// The VM has ended, or somebody else has attached.
    Closed,
}

pub(crate) fn attach(arguments: &ConsoleArguments) -> ExitCode {
    let path = &arguments.socket;
    let socket = match UnixStream::connect(path) {
        Ok(socket) => socket,
        Err(error) => {
            let problem = match error.kind() {
                io::ErrorKind::NotFound => "there is no such socket: give the PATH of --console socket=PATH".to_owned(),
                io::ErrorKind::ConnectionRefused if !is_socket(path) => {
                    "is no socket: give the PATH of --console socket=PATH".to_owned()
                }
                io::ErrorKind::ConnectionRefused => "no VM listens there any more".to_owned(),
                _ => error.to_string(),
            };
            eprintln!("vmm: error: console {}: {problem}", path.display());
            return ExitCode::from(STATUS_USAGE);
        }
    };
    match serve(socket, path) {
        Ok(end) => {
            if io::stdin().is_terminal() {
                eprintln!("{}", if end == End::Left { "vmm: left" } else { "vmm: the console has closed" });
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(&error);
            ExitCode::from(STATUS_HOST)
        }
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Says how large the terminal is, where that is heard.
struct Size {
    to: PathBuf,
    socket: UnixDatagram,
}

impl Size {
    fn new(path: &Path) -> io::Result<Self> {
        let mut to = path.to_owned().into_os_string();
        to.push(vmm::config::SIZE_SUFFIX);
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { to: to.into(), socket })
    }

    fn tell(&self) {
        if let Some((columns, rows)) = terminal::size() {
            // A serial port has no size.
            let _ = self.socket.send_to(format!("{columns} {rows}\n").as_bytes(), &self.to);
        }
    }
}

fn serve(mut socket: UnixStream, path: &Path) -> io::Result<End> {
    let (mut signals, changes) = (Signals::catch()?, terminal::size_changes()?);
    let size = Size::new(path)?;
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let _terminal = RawTerminal::enter()?;
    size.tell();
    // A program's input has no keys in it.
    let is_typed = io::stdin().is_terminal();
    // A guest that takes nothing keeps nobody from leaving.
    socket.set_nonblocking(true)?;
    let (mut escape, mut bytes, mut has_input) = (Escape::default(), vec![0; CHUNK], true);
    // What was typed and has no room in the socket yet.
    let mut unsent: Vec<u8> = Vec::new();
    loop {
        let watch = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let wanted = if unsent.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let socket_fd = PollFd::from_borrowed_fd(socket.as_fd(), wanted);
        let mut watched = vec![socket_fd, watch(changes.as_fd()), watch(signals.as_fd())];
        // A person is always listened to, as the keys to leave are among what is typed.
        if has_input && (is_typed || unsent.is_empty()) {
            watched.push(watch(stdin.as_fd()));
        }
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => drop(result?),
        }
        let is_ready: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
        if is_ready[0] {
            match socket.read(&mut bytes) {
                Ok(len @ 1..) => stdout.write_all(&bytes[..len])?,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // A VM that was killed resets it.
                Ok(0) | Err(_) => return Ok(End::Closed),
            }
        }
        if is_ready[1] {
            while (&changes).read(&mut [0; 64]).is_ok_and(|len| len > 0) {}
            size.tell();
        }
        if is_ready[2] && signals.take() {
            return Ok(End::Left);
        }
        if is_ready.get(3).is_some_and(|is_ready| *is_ready) {
            let len = stdin.read(&mut bytes)?;
            has_input = len > 0;
            let mut has_left = false;
            let act = |action| match action {
                // A terminal that can't be written to can't show them.
                Action::Help => drop(io::stderr().write_all(KEYS.as_bytes())),
                Action::Leave => has_left = true,
                // The VM isn't this process.
                Action::Stop | Action::PowerButton => {}
            };
            let kept = if is_typed { escape.filter(&mut bytes[..len], act) } else { len };
            // More than anybody types into what doesn't answer.
            if unsent.len() < MAX_UNSENT {
                unsent.extend_from_slice(&bytes[..kept]);
            }
            if has_left {
                return Ok(End::Left);
            }
            if !has_input && unsent.is_empty() {
                let _ = socket.shutdown(Shutdown::Write);
            }
        }
        if !unsent.is_empty() {
            match socket.write(&unsent) {
                Ok(sent) => drop(unsent.drain(..sent)),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::Closed),
                Err(error) => return Err(error),
            }
            if !has_input && unsent.is_empty() {
                // What the guest says is still shown.
                let _ = socket.shutdown(Shutdown::Write);
            }
        }
    }
}
