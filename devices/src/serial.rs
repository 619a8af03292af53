// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The 16550 serial port: the register file is vm-superio's, the bounds and the interrupt are ours.
//!
//! The guest controls every register. Input that it doesn't read waits in a FIFO of fixed size, and whoever feeds it is
//! told when there is room again; output goes to a writer that may block but never fails the guest.

use std::convert::Infallible;
use std::fmt::{self, Debug};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;
use crate::throttle::Throttle;

struct Line(Arc<dyn InterruptLine>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.trigger();
        Ok(())
    }
}

/// Tells the feeder that the guest has read all of its input.
struct Events {
    drained: Arc<EventFd>,
}

impl SerialEvents for Events {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        // The counter can only be full when nobody has read it 2^64 times: then it has been told enough.
        let _ = self.drained.write(1);
    }
}

/// Holds the byte that the guest has sent until nobody waits for the registers any more.
#[derive(Default)]
struct Sent(Option<u8>);

impl Write for Sent {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 = data.first().copied();
        Ok(data.len().min(1))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Port = Serial<Line, Events, Sent>;

/// A serial port.
pub struct SerialPort {
    port: Mutex<Port>,
    line: Arc<dyn InterruptLine>,
    drained: Arc<EventFd>,
    /// Apart from the registers: a write may take as long as it likes, and only those wait who write, too.
    output: Mutex<Box<dyn Write + Send>>,
    lost: Throttle,
}

impl Debug for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}

impl SerialPort {
    /// A port that writes to `output` and signals `drained` each time the guest has emptied its input.
    pub fn new(line: Box<dyn InterruptLine>, drained: EventFd, output: Box<dyn Write + Send>) -> Self {
        let (line, drained) = (Arc::from(line), Arc::new(drained));
        let port = Mutex::new(new_port(&line, &drained));
        Self { port, line, drained, output: Mutex::new(output), lost: Throttle::new() }
    }

    /// How many bytes of input the port can take now: none while the guest has it in loopback mode. `drained` is
    /// signalled when there is room again.
    pub fn room(&self) -> usize {
        let mut port = self.lock();
        if in_loopback(&mut port) { 0 } else { port.fifo_capacity() }
    }

    /// Hands input to the guest; gives back how many bytes were taken, which is at most [`Self::room`].
    pub fn receive(&self, input: &[u8]) -> usize {
        self.lock().enqueue_raw_bytes(input).unwrap_or(0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, byte: u8) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = output.write_all(&[byte]).and_then(|()| output.flush())
            && let Some(bytes) = self.lost.hit()
        {
            tracing::warn!(bytes, "serial output was lost: {error}");
        }
    }
}

fn new_port(line: &Arc<dyn InterruptLine>, drained: &Arc<EventFd>) -> Port {
    Serial::with_events(Line(line.clone()), Events { drained: drained.clone() }, Sent::default())
}

/// Offset of the modem control register, and its loopback bit.
const MCR: u8 = 4;
const MCR_LOOP: u8 = 1 << 4;

/// Reading this register has no effect.
fn in_loopback(port: &mut Port) -> bool {
    port.read(MCR) & MCR_LOOP != 0
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let (Ok(offset), [first]) = (u8::try_from(offset), data) {
            *first = self.lock().read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(offset), &[first]) = (u8::try_from(offset), data) {
            let mut port = self.lock();
            let was_in_loopback = in_loopback(&mut port);
            // Neither the line nor the one byte of output can fail.
            let _ = port.write(offset, first);
            if was_in_loopback && !in_loopback(&mut port) {
                port.events().in_buffer_empty();
            }
            let sent = port.writer_mut().0.take();
            drop(port);
            if let Some(byte) = sent {
                self.send(byte);
            }
        }
    }

    fn reset(&self) {
        let mut port = self.lock();
        *port = new_port(&self.line, &self.drained);
        // Input that nobody has read is gone.
        port.events().in_buffer_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn eventfd() -> EventFd {
        EventFd::new(libc::EFD_NONBLOCK).unwrap()
    }

    fn read(port: &SerialPort, offset: u64) -> u8 {
        let mut data = [0];
        port.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn what_the_guest_writes_reaches_the_output() {
        let output = Output::default();
        let port = SerialPort::new(Box::new(eventfd()), eventfd(), Box::new(output.clone()));
        port.write(0, b"o");
        port.write(0, b"k");
        port.write(0, b"wide");
        assert_eq!(*output.0.lock().unwrap(), b"ok");
    }

    #[test]
    fn input_is_bounded_and_its_feeder_is_told_when_it_is_read() {
        let (line, drained) = (eventfd(), eventfd());
        let port = SerialPort::new(
            Box::new(line.try_clone().unwrap()),
            drained.try_clone().unwrap(),
            Box::new(std::io::sink()),
        );
        port.write(1, &[1]);
        let room = port.room();
        assert_eq!(port.receive(&vec![7; room + 10]), room);
        assert_eq!((port.room(), port.receive(b"more")), (0, 0));
        assert!(line.read().is_ok());
        assert!(drained.read().is_err());
        for _ in 0..room {
            assert_eq!(read(&port, 0), 7);
        }
        assert_eq!(port.room(), room);
        assert!(drained.read().is_ok());
    }

    #[test]
    fn a_port_in_loopback_takes_no_input_and_says_when_it_does_again() {
        let drained = eventfd();
        let port = SerialPort::new(Box::new(eventfd()), drained.try_clone().unwrap(), Box::new(std::io::sink()));
        port.write(4, &[0x18]);
        assert_eq!((port.room(), port.receive(b"x")), (0, 0));
        assert!(drained.read().is_err());
        port.write(4, &[0x08]);
        assert!(drained.read().is_ok());
        assert_eq!(port.receive(b"x"), 1);
    }

    #[test]
    fn a_reset_forgets_input_and_registers_and_says_that_there_is_room() {
        let drained = eventfd();
        let port = SerialPort::new(Box::new(eventfd()), drained.try_clone().unwrap(), Box::new(std::io::sink()));
        let registers = |port: &SerialPort| [1, 2, 3, 4, 5, 6, 7].map(|offset| read(port, offset));
        let fresh = registers(&port);
        for offset in [1, 3, 4, 7] {
            port.write(offset, &[0x1b]);
        }
        port.write(4, &[0x08]);
        let room = port.room();
        assert_eq!(port.receive(&vec![7; room]), room);
        let _ = drained.read();
        port.reset();
        assert!(drained.read().is_ok());
        assert_eq!((registers(&port), port.room()), (fresh, room));
    }

    #[test]
    fn a_writer_that_fails_loses_bytes_and_nothing_else() {
        let port = SerialPort::new(Box::new(eventfd()), eventfd(), Box::new(Broken));
        for _ in 0..1000 {
            port.write(0, b"x");
        }
        assert_ne!(read(&port, 5) & 0x60, 0, "the transmitter still says that it is empty");
    }

    /// Takes its time: until the test lets it go.
    struct Slow(std::sync::mpsc::Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.recv().unwrap();
            Ok(data.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_writer_does_not_hold_up_input() {
        let (go, wait) = std::sync::mpsc::channel();
        let port = Arc::new(SerialPort::new(Box::new(eventfd()), eventfd(), Box::new(Slow(wait))));
        let writer = std::thread::spawn({
            let port = port.clone();
            move || port.write(0, b"x")
        });
        // However far the writer is: none of these waits for it.
        for _ in 0..10 {
            assert!(port.room() > 0);
            port.receive(b"y");
            read(&port, 5);
        }
        go.send(()).unwrap();
        writer.join().unwrap();
    }

    #[test]
    fn every_offset_width_and_value_has_an_answer() {
        let port = SerialPort::new(Box::new(eventfd()), eventfd(), Box::new(std::io::sink()));
        for offset in (0..10).chain([255, 256, u64::MAX]) {
            for width in 0..=8 {
                for value in [0, 1, 0x10, 0x80, 0xff] {
                    port.write(offset, &vec![value; width]);
                    port.read(offset, &mut vec![0xff; width]);
                }
            }
        }
    }
}
