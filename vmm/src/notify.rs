// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tells the service manager of the host what the guest's says of itself (sd_notify(3)): that it is ready, and how far it is.
//!
//! The guest finds a port of the host's by the credential `vmm.notify_socket` (systemd.system-credentials(7)), connects to it for
//! each message, sends it, ends its half of the stream and waits for the end of the other one: which comes at once.
//!
//! The guest controls every byte. Of those, `READY=1` and a line of `STATUS=` are passed on, and nothing else: a service manager
//! does more at the word of a service than it should at a guest's.

use std::io::{self, ErrorKind, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};

use devices::throttle::Throttle;
use devices::virtio::vsock::PortHandler;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

/// The port of the host's that the guest connects to. The letters of "noti", as nobody else has a use for that number.
pub(crate) const PORT: u32 = 0x6e6f_7469;
/// The name of the credential.
pub(crate) const CREDENTIAL: &str = "vmm.notify_socket";

/// The most messages at the same time. The one beyond sees its stream end.
const MAX_MESSAGES: usize = 16;
/// The most bytes of a message; what is behind is not looked at.
const MAX_MESSAGE: usize = 4096;
/// The most bytes of a status.
const MAX_STATUS: usize = 256;

/// Events: a stream has come, the manager's socket has room, and from here on streams by their places.
const COME: u32 = 0;
const ROOM: u32 = 1;
const STREAMS: u32 = 2;

/// What the guest is told to connect to.
pub(crate) fn address() -> String {
    format!("vsock-stream:2:{PORT}")
}

/// The device's side: hands streams over.
#[derive(Debug)]
pub(crate) struct NotifyPort {
    streams: SyncSender<UnixStream>,
    come: EventFd,
}

impl PortHandler for NotifyPort {
    fn connected(&mut self, stream: UnixStream) {
        // One too many is dropped, which ends it.
        let _ = self.streams.try_send(stream);
        // A full counter wakes as well.
        let _ = self.come.write(1);
    }
}

/// What is to be passed on.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    is_ready: bool,
    status: Option<String>,
}

/// The event loop's side.
#[derive(Debug)]
pub(crate) struct Notifier {
    manager: UnixDatagram,
    address: SocketAddr,
    failures: Throttle,
    streams: Receiver<UnixStream>,
    come: EventFd,
    messages: [Option<Message>; MAX_MESSAGES],
    news: News,
    waits_for_room: bool,
}

#[derive(Debug)]
struct Message {
    stream: UnixStream,
    bytes: Vec<u8>,
}

/// A way from a port of the guest's to the service manager that listens at `socket`: a path, or an abstract name behind `@`.
pub(crate) fn open(socket: &Path) -> io::Result<(NotifyPort, Notifier)> {
    let name = socket.as_os_str().as_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let manager = UnixDatagram::unbound()?;
    manager.connect_addr(&address)?;
    manager.set_nonblocking(true)?;
    let come = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
    let (sender, streams) = mpsc::sync_channel(MAX_MESSAGES);
    let port = NotifyPort { streams: sender, come: come.try_clone()? };
    let messages = std::array::from_fn(|_| None);
    let failures = Throttle::new();
    Ok((
        port,
        Notifier { manager, address, failures, streams, come, messages, news: News::default(), waits_for_room: false },
    ))
}

impl Notifier {
    /// Takes in streams that have come.
    fn take_streams(&mut self, ops: &mut EventOps<'_>) {
        let _ = self.come.read();
        while let Ok(stream) = self.streams.try_recv() {
            let free = (STREAMS..).zip(&mut self.messages).find(|(_, message)| message.is_none());
            let Some((data, place)) = free else { continue };
            let watched =
                stream.set_nonblocking(true).is_ok() && ops.add(Events::with_data(&stream, data, EventSet::IN)).is_ok();
            if watched {
                *place = Some(Message { stream, bytes: Vec::new() });
            }
        }
    }

    /// Reads what is there of a message, and passes it on when it has ended.
    fn read(&mut self, place: usize, ops: &mut EventOps<'_>) {
        let Some(slot) = self.messages.get_mut(place) else { return };
        let Some(message) = slot else { return };
        let mut bytes = [0; MAX_MESSAGE];
        match message.stream.read(&mut bytes) {
            Ok(len @ 1..) => {
                let room = MAX_MESSAGE - message.bytes.len();
                message.bytes.extend_from_slice(&bytes[..len.min(room)]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            ended => {
                if let Some(message) = slot.take() {
                    let _ = ops.remove(Events::empty(&message.stream));
                    if ended.is_ok() {
                        self.note(&message.bytes);
                        self.tell(ops);
                    }
                    // The guest waits for the end of its stream, which is here.
                }
            }
        }
    }

    /// Takes in a message.
    fn note(&mut self, message: &[u8]) {
        let News { is_ready, status } = News::of(message);
        self.news.is_ready |= is_ready;
        self.news.status = status.or(self.news.status.take());
    }

    /// Tells the manager, as soon as it has room for that. The newest status is enough.
    fn tell(&mut self, ops: &mut EventOps<'_>) {
        let text = self.news.text();
        let send = || if text.is_empty() { Ok(0) } else { self.manager.send(text.as_bytes()) };
        let waits = match send() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            sent => {
                // It may have started anew.
                let sent = sent
                    .or_else(|error| self.manager.connect_addr(&self.address).and_then(|()| send()).map_err(|_| error));
                let is_told = sent.is_ok();
                if let Err(error) = sent
                    && let Some(times) = self.failures.hit()
                {
                    tracing::warn!(times, "the service manager can't be told what the guest says: {error}");
                }
                // That the guest is ready counts whenever somebody can be told.
                self.news = News { is_ready: self.news.is_ready && !is_told, status: None };
                false
            }
        };
        if waits != self.waits_for_room {
            let events = Events::with_data(&self.manager, ROOM, EventSet::OUT);
            let changed = if waits { ops.add(events) } else { ops.remove(events) };
            self.waits_for_room = waits && changed.is_ok();
        }
    }
}

impl News {
    /// What of a message is passed on.
    fn of(message: &[u8]) -> Self {
        let mut news = Self::default();
        for line in message.split(|byte| *byte == b'\n') {
            if line == b"READY=1" {
                news.is_ready = true;
            } else if let Some(status) = line.strip_prefix(b"STATUS=") {
                let text = String::from_utf8_lossy(status.get(..MAX_STATUS).unwrap_or(status)).into_owned();
                news.status = Some(text.chars().filter(|character| !character.is_control()).collect());
            }
        }
        news
    }

    fn text(&self) -> String {
        let ready = if self.is_ready { "READY=1\n" } else { "" };
        let status = self.status.as_ref().map_or_else(String::new, |status| format!("STATUS={status}\n"));
        format!("{ready}{status}")
    }
}

impl MutEventSubscriber for Notifier {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::with_data(&self.come, COME, EventSet::IN)) {
            tracing::warn!("what the guest says of itself can't be heard: {error}");
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            COME => self.take_streams(ops),
            ROOM => self.tell(ops),
            place => self.read((place - STREAMS) as usize, ops),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;

    use event_manager::{EventManager, SubscriberOps};

    use super::*;

    fn manager() -> (tempfile::TempDir, UnixDatagram, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        (folder, UnixDatagram::bind(&path).unwrap(), path)
    }

    /// Leaves the manager's socket no room.
    fn fill(path: &Path) {
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to(b"full", path).is_ok() {}
    }

    /// Sends a message as a guest does, and waits for the end of its stream, which is the answer.
    fn say(port: &mut NotifyPort, events: &mut EventManager<Notifier>, message: &[u8]) {
        let (mut guest, ours) = UnixStream::pair().unwrap();
        port.connected(ours);
        guest.write_all(message).unwrap();
        guest.shutdown(Shutdown::Write).unwrap();
        guest.set_nonblocking(true).unwrap();
        while guest.read(&mut [0]).is_err() {
            events.run_with_timeout(1000).unwrap();
        }
    }

    /// Sends messages as a guest does; what the manager hears of each, if it hears something.
    fn heard(messages: &[&[u8]]) -> Vec<String> {
        let (_folder, socket, path) = manager();
        socket.set_nonblocking(true).unwrap();
        let (mut port, notifier) = open(&path).unwrap();
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(notifier);
        let mut all = Vec::new();
        for message in messages {
            say(&mut port, &mut events, message);
            let mut bytes = [0; 1000];
            all.extend(socket.recv(&mut bytes).map(|len| String::from_utf8_lossy(&bytes[..len]).into_owned()));
        }
        all
    }

    #[test]
    fn ready_and_status_are_passed_on_and_each_stream_ends_at_once() {
        let expected = ["STATUS=Starting journal\n", "READY=1\nSTATUS=Up\n"];
        assert_eq!(heard(&[b"STATUS=Starting journal\n", b"READY=1\nSTATUS=Up"]), expected);
    }

    #[test]
    fn what_would_have_the_manager_do_something_stays_here() {
        let message = b"MAINPID=1\nFDSTORE=1\nWATCHDOG=trigger\nEXTEND_TIMEOUT_USEC=999\nREADY=0\nREADY=1x\nSTOPPING=1";
        assert_eq!(heard(&[message, b"", b"\n\n"]), [""; 0]);
        let long = [b"STATUS=".as_slice(), &[b'x'; 10_000]].concat();
        let said = heard(&[b"STATUS=a\x1b[2Jb\xff\0c", &long]);
        assert_eq!(said[0], "STATUS=a[2Jb\u{fffd}c\n");
        assert_eq!(said[1].len(), "STATUS=\n".len() + MAX_STATUS);
    }

    #[test]
    fn a_manager_that_has_no_room_is_told_the_newest_when_it_has() {
        let (_folder, socket, path) = manager();
        let (mut port, notifier) = open(&path).unwrap();
        fill(&path);
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(notifier);
        for message in ["STATUS=one", "READY=1", "STATUS=two"] {
            say(&mut port, &mut events, message.as_bytes());
        }
        let mut bytes = [0; 100];
        loop {
            let len = socket.recv(&mut bytes).unwrap();
            if &bytes[..len] != b"full" {
                assert_eq!(&bytes[..len], b"READY=1\nSTATUS=two\n");
                break;
            }
            events.run_with_timeout(0).unwrap();
        }
    }

    #[test]
    fn a_manager_that_ends_keeps_nobody_busy_and_a_new_one_is_told_that_the_guest_is_ready() {
        let (_folder, socket, path) = manager();
        let (mut port, notifier) = open(&path).unwrap();
        fill(&path);
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(notifier);
        say(&mut port, &mut events, b"READY=1");
        drop((socket, std::fs::remove_file(&path)));
        // It hears of the end, and then of nothing more.
        events.run_with_timeout(100).unwrap();
        assert_eq!(events.run_with_timeout(0).unwrap(), 0);
        let socket = UnixDatagram::bind(&path).unwrap();
        say(&mut port, &mut events, b"STATUS=up");
        let mut bytes = [0; 100];
        let len = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"READY=1\nSTATUS=up\n");
    }

    #[test]
    fn more_messages_than_there_are_places_for_end_without_harm() {
        let (_folder, _socket, path) = manager();
        let (mut port, notifier) = open(&path).unwrap();
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(notifier);
        let guests: Vec<_> = (0..100)
            .map(|_| {
                let (guest, ours) = UnixStream::pair().unwrap();
                port.connected(ours);
                events.run_with_timeout(0).unwrap();
                guest.set_nonblocking(true).unwrap();
                guest
            })
            .collect();
        let ended = guests.iter().filter(|guest| (&**guest).read(&mut [0]).is_ok()).count();
        assert_eq!(ended, 100 - MAX_MESSAGES);
    }
}
