// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Input: from a descriptor to the serial port, no faster than the guest reads it.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, PoisonError};

use devices::serial::SerialPort;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use super::ConsoleInput;
use super::output::Client;

/// The most that is read at once: the port's FIFO is smaller.
const CHUNK: usize = 64;

/// How often that is done before others are served.
const TURNS: usize = 16;

/// Feeds the serial port.
pub(crate) struct SerialInput {
    port: Arc<SerialPort>,
    /// Signalled when the guest has emptied the port's FIFO.
    drained: EventFd,
    source: Option<Box<dyn ConsoleInput>>,
    watching: Watching,
    /// Where the next source comes from when there is none.
    socket: Option<Socket>,
    /// Whether the socket's clients are waited for.
    listening: bool,
    /// What was read and not taken.
    held: Vec<u8>,
}

/// A socket that one client at a time is served on; others wait in its backlog.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(super) listener: UnixListener,
    /// Where output finds the client.
    pub(super) client: Client,
}

/// How it is found out that the source has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watching {
    /// By epoll.
    Readable,
    /// Not now: the port is full.
    Paused,
    /// Not any more: the client is gone, though the port has not taken all that it sent.
    Gone,
    /// A file, which epoll doesn't take: it always has something, until its end.
    Always,
}

impl SerialInput {
    pub(crate) fn new(port: Arc<SerialPort>, drained: EventFd, from: InputFrom) -> Self {
        let (source, socket) = match from {
            InputFrom::Nowhere => (None, None),
            InputFrom::Source(source) => (Some(source), None),
            InputFrom::Socket(socket) => (None, Some(socket)),
        };
        Self { port, drained, source, watching: Watching::Readable, socket, listening: false, held: Vec::new() }
    }

    /// Takes the next client of the socket.
    fn accept(&mut self, ops: &mut EventOps<'_>) {
        let Some(socket) = &self.socket else { return };
        let client = match socket.listener.accept() {
            Ok((client, _)) => client,
            // A client that has given up already.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {
                return;
            }
            Err(error) => {
                // Out of descriptors, say: to be told again and again would help nobody.
                tracing::warn!("serial socket: no more clients are taken: {error}");
                return self.listen(false, ops);
            }
        };
        let cloned = client.set_nonblocking(true).and_then(|()| client.try_clone());
        let Ok(output) = cloned.inspect_err(|error| tracing::warn!("serial socket: {error}")) else { return };
        *socket.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(output);
        self.listen(false, ops);
        // One that has gone may have left something that no guest has read.
        self.source = Some(Box::new(client));
        self.held.clear();
        self.start_watching(ops);
    }

    fn start_watching(&mut self, ops: &mut EventOps<'_>) {
        let Some(source) = &self.source else { return };
        self.watching = Watching::Readable;
        match ops.add(Events::new(&Fd(source.as_raw_fd()), EventSet::IN)) {
            Ok(()) => (),
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EPERM => {
                self.watching = Watching::Always;
                self.feed(ops);
            }
            Err(error) => {
                tracing::warn!("there is no serial input: {error}");
                self.source = None;
            }
        }
    }

    /// Moves what there is room for.
    fn feed(&mut self, ops: &mut EventOps<'_>) {
        // However fast the guest reads, there are others to be served.
        for _ in 0..TURNS {
            let room = self.port.room().min(CHUNK);
            if room == 0 {
                return self.watch(Watching::Paused, ops);
            }
            if self.held.is_empty() {
                let Some(source) = &mut self.source else { return };
                let mut bytes = [0; CHUNK];
                match source.read(&mut bytes[..room]) {
                    Ok(0) => return self.end(ops),
                    Ok(len) => self.held.extend_from_slice(&bytes[..len]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) => {
                        tracing::warn!("serial input has ended: {error}");
                        return self.end(ops);
                    }
                }
            }
            // A guest that has put the port into loopback meanwhile takes none; what is left is for later.
            let taken = self.port.receive(&self.held);
            self.held.drain(..taken);
            if self.watching == Watching::Readable {
                // Reading once more could block; epoll tells when it can't.
                return;
            }
        }
        // A full counter calls us back just as well.
        let _ = self.drained.write(1);
    }

    fn watch(&mut self, watching: Watching, ops: &mut EventOps<'_>) {
        let Some(source) = &self.source else { return };
        let before = std::mem::replace(&mut self.watching, watching);
        let failed = match (before, watching) {
            (Watching::Always, _) => {
                self.watching = Watching::Always;
                Ok(())
            }
            (Watching::Readable, Watching::Paused) if self.socket.is_some() => {
                // That the client is gone is still told.
                ops.modify(Events::new(&Fd(source.as_raw_fd()), EventSet::empty()))
            }
            (Watching::Paused, Watching::Readable) if self.socket.is_some() => {
                ops.modify(Events::new(&Fd(source.as_raw_fd()), EventSet::IN))
            }
            (Watching::Readable, Watching::Paused) => ops.remove(Events::new(&Fd(source.as_raw_fd()), EventSet::IN)),
            (Watching::Paused, Watching::Readable) => ops.add(Events::new(&Fd(source.as_raw_fd()), EventSet::IN)),
            (Watching::Gone, _) => {
                self.watching = Watching::Gone;
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = failed {
            tracing::warn!("serial input can't be watched: {error}");
        }
    }

    /// The source has ended.
    fn end(&mut self, ops: &mut EventOps<'_>) {
        self.forget(ops);
        self.source = None;
    }

    /// The client of a socket is gone. The guest may still read what it sent, and the next one is let in.
    fn hang_up(&mut self, ops: &mut EventOps<'_>) {
        self.forget(ops);
        self.watching = Watching::Gone;
    }

    /// Doesn't look at the source's descriptor any more.
    fn forget(&mut self, ops: &mut EventOps<'_>) {
        let watched = match self.watching {
            Watching::Readable => true,
            Watching::Paused => self.socket.is_some(),
            Watching::Gone | Watching::Always => false,
        };
        if let Some(source) = &self.source
            && watched
            && let Err(error) = ops.remove(Events::new(&Fd(source.as_raw_fd()), EventSet::IN))
        {
            tracing::warn!("serial input: {error}");
        }
        if let Some(socket) = &self.socket {
            *socket.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.listen(true, ops);
    }

    /// Starts or stops to wait for clients.
    fn listen(&mut self, listening: bool, ops: &mut EventOps<'_>) {
        let Some(socket) = &self.socket else { return };
        if self.listening == listening {
            return;
        }
        self.listening = listening;
        let listener = Events::new(&socket.listener, EventSet::IN);
        if let Err(error) = if listening { ops.add(listener) } else { ops.remove(listener) } {
            tracing::warn!("serial socket: {error}");
        }
    }
}

/// Where input comes from.
pub(crate) enum InputFrom {
    /// There is none.
    Nowhere,
    /// One source, until its end.
    Source(Box<dyn ConsoleInput>),
    /// One client after the other.
    Socket(Socket),
}

/// event-manager takes descriptors by trait.
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl MutEventSubscriber for SerialInput {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.drained, EventSet::IN)) {
            tracing::warn!("serial input can't be watched: {error}");
            return;
        }
        self.listen(true, ops);
        self.start_watching(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.drained.as_raw_fd() {
            // Only a counter that is zero fails, and then there is nothing to forget.
            let _ = self.drained.read();
            self.watch(Watching::Readable, ops);
            if self.watching != Watching::Readable || !self.held.is_empty() {
                self.feed(ops);
            }
        } else if self.socket.as_ref().is_some_and(|socket| socket.listener.as_raw_fd() == events.fd()) {
            self.accept(ops);
        } else if self.watching == Watching::Paused {
            self.hang_up(ops);
        } else {
            // An end or an error of the source is found by reading.
            self.feed(ops);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use devices::bus::BusDevice;
    use event_manager::{EventManager, SubscriberOps};

    use super::*;

    struct Rig {
        port: Arc<SerialPort>,
        manager: EventManager<SerialInput>,
    }

    fn rig(source: InputFrom) -> Rig {
        let eventfd = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let drained = eventfd();
        let port = Arc::new(SerialPort::new(Box::new(eventfd()), drained.try_clone().unwrap(), Box::new(io::sink())));
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(SerialInput::new(port.clone(), drained, source));
        Rig { port, manager }
    }

    impl Rig {
        /// Lets the loop work until nothing is left to do, and reads what the port has.
        fn read(&mut self) -> Vec<u8> {
            let mut seen = Vec::new();
            loop {
                while self.manager.run_with_timeout(0).unwrap() > 0 {
                    if self.port.room() == 0 {
                        break;
                    }
                }
                let before = seen.len();
                loop {
                    let mut status = [0];
                    self.port.read(5, &mut status);
                    if status[0] & 1 == 0 {
                        break;
                    }
                    let mut byte = [0];
                    self.port.read(0, &mut byte);
                    seen.push(byte[0]);
                }
                if seen.len() == before {
                    return seen;
                }
            }
        }
    }

    #[test]
    fn input_of_any_length_arrives_in_order_and_waits_for_the_guest() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut rig = rig(InputFrom::Source(Box::new(ours)));
        let sent: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        theirs.write_all(&sent).unwrap();
        assert_eq!(rig.read(), sent);
        theirs.write_all(b"more").unwrap();
        assert_eq!(rig.read(), b"more");
        drop(theirs);
        assert_eq!(rig.read(), b"");
        assert_eq!(rig.manager.run_with_timeout(0).unwrap(), 0, "an end is not reported for ever");
    }

    #[test]
    fn a_full_port_makes_the_loop_sleep() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut rig = rig(InputFrom::Source(Box::new(ours)));
        theirs.write_all(&[1; 5000]).unwrap();
        while rig.port.room() > 0 {
            rig.manager.run_with_timeout(0).unwrap();
        }
        rig.manager.run_with_timeout(0).unwrap();
        assert_eq!(rig.manager.run_with_timeout(0).unwrap(), 0);
    }

    #[test]
    fn a_file_is_read_to_its_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'x'; 1000]).unwrap();
        let mut rig = rig(InputFrom::Source(Box::new(File::open(file.path()).unwrap())));
        assert_eq!(rig.read(), [b'x'; 1000]);
        assert_eq!(rig.manager.run_with_timeout(0).unwrap(), 0);
    }

    #[test]
    fn no_input_is_fine() {
        assert_eq!(rig(InputFrom::Nowhere).read(), b"");
        assert_eq!(rig(InputFrom::Source(Box::new(File::open("/dev/null").unwrap()))).read(), b"");
    }

    #[test]
    fn a_client_that_leaves_while_the_port_is_full_makes_room_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial");
        let listener = UnixListener::bind(&path).unwrap();
        let client = Client::default();
        let mut rig = rig(InputFrom::Socket(Socket { listener, client: client.clone() }));
        let mut first = UnixStream::connect(&path).unwrap();
        first.write_all(&[b'x'; 1000]).unwrap();
        while rig.port.room() > 0 {
            rig.manager.run_with_timeout(0).unwrap();
        }
        rig.manager.run_with_timeout(0).unwrap();
        drop(first);
        let _second = UnixStream::connect(&path).unwrap();
        // The hang-up, then the next client; nothing is told for ever.
        while rig.manager.run_with_timeout(0).unwrap() > 0 {}
        assert!(client.lock().unwrap().as_ref().is_some_and(|client| client.peer_addr().is_ok()));
    }

    #[test]
    fn what_a_client_sent_before_it_left_is_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial");
        let listener = UnixListener::bind(&path).unwrap();
        let mut rig = rig(InputFrom::Socket(Socket { listener, client: Client::default() }));
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(&[b'x'; 1000]).unwrap();
        drop(client);
        assert_eq!(rig.read(), [b'x'; 1000]);
    }

    #[test]
    fn a_socket_serves_one_client_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial");
        let listener = UnixListener::bind(&path).unwrap();
        let client = Client::default();
        let mut rig = rig(InputFrom::Socket(Socket { listener, client: client.clone() }));
        for turn in 0..3 {
            let mut first = UnixStream::connect(&path).unwrap();
            let mut second = UnixStream::connect(&path).unwrap();
            first.write_all(b"first").unwrap();
            second.write_all(b"second").unwrap();
            assert_eq!(rig.read(), b"first", "{turn}");
            assert!(client.lock().unwrap().is_some());
            drop(first);
            assert_eq!(rig.read(), b"second", "{turn}");
            drop(second);
            assert_eq!(rig.read(), b"", "{turn}");
            assert!(client.lock().unwrap().is_none());
        }
    }
}
