// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Output that may block its vCPU, as a slow terminal does, but never keeps the VM from ending.

#![expect(unsafe_code, reason = "poll takes a raw pointer")]

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::ConsoleOutput;

/// A writer that waits until its descriptor can take a byte, or until the VM ends: from then on, everything is dropped.
pub(super) struct PatientOutput {
    output: Box<dyn ConsoleOutput>,
    /// Readable from the moment on when the VM ends; never read.
    stop: EventFd,
}

impl PatientOutput {
    pub(super) fn new(output: Box<dyn ConsoleOutput>, stop: EventFd) -> Self {
        Self { output, stop }
    }

    /// `true`: a byte can be written without waiting. `false`: the VM ends.
    fn wait(&self) -> bool {
        let fd = |fd, events| libc::pollfd { fd, events, revents: 0 };
        let mut fds = [fd(self.output.as_raw_fd(), libc::POLLOUT), fd(self.stop.as_raw_fd(), libc::POLLIN)];
        loop {
            // SAFETY: the pointer and the length are those of an array that lives across the call.
            let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
            match ready {
                // The output may be ready, too: what was written before the end is wanted.
                _ if fds[0].revents != 0 => return true,
                1.. => return false,
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => (),
                // Can't wait: the write tells why.
                _ => return true,
            }
        }
    }
}

impl Write for PatientOutput {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // More than a byte could block in spite of the wait.
        match data.get(..1) {
            Some(byte) if self.wait() => self.output.write(byte),
            _ => Ok(data.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The client of a socket, while there is one.
pub(super) type Client = Arc<Mutex<Option<UnixStream>>>;

/// Output to whoever is connected, as a serial line without flow control: what nobody is there for, or is too slow for,
/// is lost.
pub(super) struct SocketOutput(pub(super) Client);

impl Write for SocketOutput {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut client = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = &mut *client else { return Ok(data.len()) };
        match stream.write(data) {
            // Whether the client is gone is for the event loop to find out.
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Ok(data.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    fn stop() -> EventFd {
        EventFd::new(libc::EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn output_waits_for_a_slow_reader_and_loses_nothing() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut output = PatientOutput::new(Box::new(ours), stop());
        let writer = thread::spawn(move || output.write_all(&vec![7; 1 << 20]));
        let mut seen = Vec::new();
        theirs.read_to_end(&mut seen).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(seen.len(), 1 << 20);
    }

    #[test]
    fn a_reader_that_never_reads_does_not_hold_up_the_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut filler = ours.try_clone().unwrap();
        while filler.write(&[0; 4096]).is_ok() {}
        let stop = stop();
        let mut output = PatientOutput::new(Box::new(ours), stop.try_clone().unwrap());
        let writer = thread::spawn(move || output.write_all(b"never read"));
        stop.write(1).unwrap();
        writer.join().unwrap().unwrap();
        drop(theirs);
    }

    #[test]
    fn socket_output_never_waits_and_never_fails() {
        let client = Client::default();
        let mut output = SocketOutput(client.clone());
        output.write_all(b"nobody is there").unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        *client.lock().unwrap() = Some(ours);
        output.write_all(b"hello").unwrap();
        let mut seen = [0; 5];
        theirs.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"hello");
        output.write_all(&vec![0; 8 << 20]).unwrap();
        drop(theirs);
        output.write_all(b"gone").unwrap();
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let error = PatientOutput::new(Box::new(ours), stop()).write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
