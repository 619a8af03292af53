// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One boot of the testbed, from power-on to the end of its command.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{PidfdFlags, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};

use super::Stream;
use super::qemu::{CONTROL, ERRORS, INPUT, Machine, OUTPUT, PORTS};
use super::terminal::{self, Raw};
use crate::progress::Step;

/// How long a boot may take before it counts as standing still. It takes 4 to 6 s on an idle machine.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// How long the testbed may be silent after that; it says something every second.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is nudged.
const NUDGE: Duration = Duration::from_millis(100);
/// How long switching off may take.
const OFF_PATIENCE: Duration = Duration::from_secs(30);
/// Ctrl-], which ends an interactive testbed that doesn't end by itself.
const ESCAPE: u8 = 0x1d;

/// How a boot ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The command ended with this status.
    Status(i32),
    /// The request's time was over.
    TimedOut,
    /// Somebody wants all of this to end.
    Signal(i32),
    /// The emulated machine failed, in a way that may not happen again.
    Failed(String),
}

/// What the threads of a session tell the one that decides. The number is that of the boot.
enum Event {
    Connected(u32, u32, UnixStream),
    Data(u32, Stream, Vec<u8>),
    Line(u32, String),
    Closed(u32),
    QemuEnded(u32),
    Signal(i32),
}

/// Where the events of all boots come in.
pub(crate) struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Events {
    /// From now on, signals are events.
    pub(crate) fn new() -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH])?;
        let for_signals = sender.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                let _ = for_signals.send(Event::Signal(signal));
            }
        });
        Ok(Self { sender, receiver })
    }
}

/// Boots, runs the command, switches off.
pub(crate) fn run(
    machine: &Machine<'_>,
    events: &Events,
    sink: &mut dyn FnMut(Stream, &[u8]) -> std::io::Result<()>,
) -> Result<Ending> {
    static BOOTS: AtomicU32 = AtomicU32::new(0);
    let boot = BOOTS.fetch_add(1, Ordering::Relaxed);
    let socket = |port| socket_name(boot, port);
    for port in PORTS {
        let address = SocketAddr::from_abstract_name(socket(port))?;
        let listener =
            UnixListener::bind_addr(&address).with_context(|| format!("can't listen at @{}", socket(port)))?;
        let sender = events.sender.clone();
        std::thread::spawn(move || {
            // Whatever goes wrong on the way counts as the port's end.
            let _ = serve_port(&listener, boot, port, &sender);
            let _ = sender.send(Event::Closed(boot));
        });
    }
    let step = Step::start("booting the testbed");
    let child = machine.start(socket)?;
    let qemu = Qemu::watch(child, boot, events.sender.clone())?;
    let mut session = Session {
        machine,
        boot,
        step: Some(step),
        raw: None,
        control: None,
        input: None,
        status: None,
        trouble: None,
        last_beat: Instant::now(),
        started: Instant::now(),
    };
    let ending = session.follow(events, sink);
    session.wake_unconnected_ports();
    drop(session);
    qemu.end();
    ending
}

/// The abstract socket for a port of a boot.
fn socket_name(boot: u32, port: u32) -> String {
    format!("vmm-testbed-{}-{boot}-{port}", std::process::id())
}

/// Interrupts the machine now and then until it is gone.
///
/// QEMU's SVM changes a vCPU's pending interrupts without a lock when it enters and leaves a guest, and so loses one now and
/// then. If that was the timer's, a processor that sleeps would do so for ever, though the interrupt is still in its
/// LAPIC; any other interrupt has QEMU look there again.
fn nudge(mut control: UnixStream) {
    while control.write_all(b"nudge\n").is_ok() {
        std::thread::sleep(NUDGE);
    }
}

/// Waits for QEMU to connect, then passes on what comes in.
fn serve_port(listener: &UnixListener, boot: u32, port: u32, sender: &Sender<Event>) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    sender.send(Event::Connected(boot, port, stream.try_clone()?))?;
    let kind = match port {
        OUTPUT => Stream::Output,
        ERRORS => Stream::Errors,
        _ => {
            for line in BufReader::new(stream).lines() {
                sender.send(Event::Line(boot, line?))?;
            }
            return Ok(());
        }
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => sender.send(Event::Data(boot, kind, buffer[..length].to_vec()))?,
        }
    }
}

/// A running QEMU, which another thread waits for.
struct Qemu {
    pidfd: rustix::fd::OwnedFd,
    waiter: JoinHandle<()>,
}

impl Qemu {
    fn watch(mut child: Child, boot: u32, sender: Sender<Event>) -> Result<Self> {
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let waiter = std::thread::spawn(move || {
            let _ = child.wait();
            let _ = sender.send(Event::QemuEnded(boot));
        });
        Ok(Self { pidfd, waiter })
    }

    /// Kills it unless it has ended, and waits until it is gone.
    fn end(self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = self.waiter.join();
    }
}

/// What is known of a boot while it goes on.
struct Session<'a> {
    machine: &'a Machine<'a>,
    boot: u32,
    step: Option<Step>,
    raw: Option<Raw>,
    control: Option<UnixStream>,
    input: Option<UnixStream>,
    status: Option<i32>,
    trouble: Option<String>,
    last_beat: Instant,
    started: Instant,
}

impl Session<'_> {
    fn follow(
        &mut self,
        events: &Events,
        sink: &mut dyn FnMut(Stream, &[u8]) -> std::io::Result<()>,
    ) -> Result<Ending> {
        let mut open_ports = PORTS.len();
        let mut qemu_ended = false;
        loop {
            let (deadline, ending) = self.next_deadline();
            let event = match events.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => return Ok(ending),
                Err(error) => return Err(error.into()),
            };
            match event {
                Event::Connected(boot, port, stream) if boot == self.boot => self.connected(port, stream),
                Event::Data(boot, stream, bytes) if boot == self.boot => {
                    sink(stream, &bytes).context("can't pass on the output")?
                }
                Event::Line(boot, line) if boot == self.boot => self.line(&line, events)?,
                Event::Closed(boot) if boot == self.boot => open_ports -= 1,
                Event::QemuEnded(boot) if boot == self.boot => {
                    qemu_ended = true;
                    self.wake_unconnected_ports();
                }
                Event::Signal(SIGWINCH) => self.tell_size(),
                Event::Signal(signal) => return Ok(Ending::Signal(signal)),
                _ => {}
            }
            if qemu_ended && open_ports == 0 {
                return Ok(match self.status {
                    Some(status) => Ending::Status(status),
                    None => Ending::Failed(self.why_it_ended()),
                });
            }
        }
    }

    /// When to stop waiting, and what that would mean.
    fn next_deadline(&self) -> (Instant, Ending) {
        let limit = if self.status.is_some() {
            // All has been said that matters; QEMU just doesn't go.
            let ending = self.status.map_or(Ending::TimedOut, Ending::Status);
            return (self.last_beat + OFF_PATIENCE, ending);
        } else if self.step.is_some() {
            BOOT_PATIENCE
        } else {
            PATIENCE
        };
        let stall = format!("the testbed stood still: not a word from it for {} s", limit.as_secs());
        let silence = (self.last_beat + limit, Ending::Failed(stall));
        match self.machine.request.timeout.map(|timeout| self.started + timeout) {
            Some(timeout) if timeout < silence.0 => (timeout, Ending::TimedOut),
            _ => silence,
        }
    }

    fn connected(&mut self, port: u32, stream: UnixStream) {
        match port {
            CONTROL => {
                if let Ok(stream) = stream.try_clone() {
                    std::thread::spawn(move || nudge(stream));
                }
                self.control = Some(stream);
            }
            INPUT => self.input = Some(stream),
            _ => {}
        }
    }

    /// A line on the control port; an empty one is the input port's, which is ready now.
    fn line(&mut self, line: &str, events: &Events) -> Result<()> {
        self.last_beat = Instant::now();
        match line.split_once(' ') {
            None if line == "ready" => {
                if let Some(step) = self.step.take() {
                    step.finish("");
                }
            }
            None if line.is_empty() => self.forward_input(events),
            Some(("exit", status)) => self.status = Some(status.parse().context("the testbed reports no number")?),
            Some(("error", what)) => {
                crate::progress::note(format!("testbed: {what}"));
                self.trouble = Some(what.to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn forward_input(&mut self, events: &Events) {
        let Some(mut port) = self.input.take() else {
            return;
        };
        let sender = events.sender.clone();
        self.raw = Some(Raw::enter());
        self.tell_size();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = std::io::stdin().read(&mut buffer) {
                let typed = &buffer[..length];
                if typed.contains(&ESCAPE) {
                    let _ = sender.send(Event::Signal(SIGHUP));
                }
                if port.write_all(typed).is_err() {
                    return;
                }
            }
            // The end of a file is Ctrl-D on a terminal.
            let _ = port.write_all(b"\x04");
        });
    }

    fn tell_size(&mut self) {
        if let Some(control) = self.control.as_mut().filter(|_| self.raw.is_some()) {
            let (rows, columns) = terminal::size();
            let _ = control.write_all(format!("size {rows} {columns}\n").as_bytes());
        }
    }

    /// A port that QEMU never connected to is still waiting for it.
    fn wake_unconnected_ports(&self) {
        for port in PORTS {
            let name = socket_name(self.boot, port);
            let _ = SocketAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address));
        }
    }

    fn why_it_ended(&self) -> String {
        let complaints = std::fs::read_to_string(self.machine.job.qemu_log()).unwrap_or_default();
        match (&self.trouble, complaints.trim()) {
            (Some(trouble), _) => format!("the testbed ended early: {trouble}"),
            (None, "") => "the testbed ended by itself before its command did".to_owned(),
            (None, complaints) => format!("QEMU ended: {complaints}"),
        }
    }
}
