// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Runs a micro-guest and gathers what it says.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::{NamedTempFile, TempDir};
use vmm::{Config, Console, Control, Disk, Exit, MemorySize, OnCrash, OnReboot, Vm};

use crate::elf;

/// Ends the test, saying so, where `/dev/kvm` can't be opened.
macro_rules! skip {
    () => {
        if crate::skip::without_kvm() {
            return;
        }
    };
}
pub(crate) use skip;

/// A disk image of one sector that starts with `content`.
pub(crate) fn image(content: &[u8]) -> NamedTempFile {
    let mut sector = content.to_vec();
    sector.resize(512, 0);
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&sector).unwrap();
    file
}

/// Gathers the log lines of this process, from all of its threads, that have `text` in them.
pub(crate) fn log_lines_with(text: &'static str) -> Arc<Mutex<Vec<u8>>> {
    struct Lines(&'static str, Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            if String::from_utf8_lossy(line).contains(self.0) {
                self.1.lock().unwrap().extend(line);
            }
            Ok(line.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let lines: Arc<Mutex<Vec<u8>>> = Arc::default();
    let shared = lines.clone();
    let make = move || Lines(text, shared.clone());
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(make).try_init().unwrap();
    // What the test looks for is found when it is there.
    tracing::trace!("{text}: a trial");
    assert!(!std::mem::take(&mut *lines.lock().unwrap()).is_empty());
    lines
}

type React = Box<dyn FnOnce(Control) + Send>;

/// A machine with a program in it.
pub(crate) struct Rig {
    program: &'static [u8],
    config: Config,
    input: Vec<u8>,
    unread: bool,
    react: Option<(&'static str, React)>,
    _dir: TempDir,
}

impl Rig {
    pub(crate) fn new(program: fn() -> &'static [u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("kernel"));
        config.memory = MemorySize::mib(32).unwrap().into();
        Self { program: program(), config, input: Vec::new(), unread: false, react: None, _dir: dir }
    }

    pub(crate) fn pvh(mut self) -> Self {
        self.config.pvh = true;
        self
    }

    pub(crate) fn on_reboot(mut self, on_reboot: OnReboot) -> Self {
        self.config.on_reboot = on_reboot;
        self
    }

    pub(crate) fn on_crash(mut self, on_crash: OnCrash) -> Self {
        self.config.on_crash = on_crash;
        self
    }

    pub(crate) fn vcpus(mut self, count: u32) -> Self {
        self.config.cpus = count;
        self
    }

    pub(crate) fn disk(mut self, image: &NamedTempFile) -> Self {
        self.config.disks.push(Disk::new(image.path()));
        self
    }

    /// Builds it with a disk that is written like on the command line, and doesn't run it: one of them, or what is wrong.
    pub(crate) fn build(mut self, disk: &str) -> Result<Vm, String> {
        self.config.disks = vec![disk.parse().unwrap()];
        fs::write(&self.config.kernel, elf::wrap(self.program, self.config.pvh)).unwrap();
        let console = Console { input: None, output: Box::new(UnixStream::pair().unwrap().0) };
        Vm::build(&self.config, Some(console)).map_err(|error| error.to_string())
    }

    pub(crate) fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    /// Nobody reads the console, so that it fills up.
    pub(crate) fn unread(mut self) -> Self {
        self.unread = true;
        self
    }

    /// What the host does once the guest has said `marker`.
    pub(crate) fn when(mut self, marker: &'static str, react: impl FnOnce(Control) + Send + 'static) -> Self {
        self.react = Some((marker, Box::new(react)));
        self
    }

    /// Runs it to its end: how it ended, and what it said.
    pub(crate) fn run(self) -> (Exit, String) {
        fs::write(&self.config.kernel, elf::wrap(self.program, self.config.pvh)).unwrap();
        let (input, output) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let console = Console { input: Some(Box::new(input.0)), output: Box::new(output.0) };
        let vm = Vm::build(&self.config, Some(console)).unwrap();
        let control = vm.control();
        (&input.1).write_all(&self.input).unwrap();
        if self.unread {
            let (_, react) = self.react.unwrap();
            react(control);
            let exit = vm.run(Vec::new()).unwrap();
            return (exit, read_to_end(output.1));
        }
        let react = self.react;
        let reader = thread::spawn(move || listen(output.1, control, react));
        let exit = vm.run(Vec::new()).unwrap();
        (exit, String::from_utf8_lossy(&reader.join().unwrap()).into_owned())
    }
}

fn read_to_end(mut from: UnixStream) -> String {
    let mut seen = Vec::new();
    from.read_to_end(&mut seen).unwrap();
    String::from_utf8_lossy(&seen).into_owned()
}

fn listen(mut from: UnixStream, control: Control, react: Option<(&str, React)>) -> Vec<u8> {
    let mut seen = Vec::new();
    let mut byte = [0];
    if let Some((marker, react)) = react {
        while !seen.ends_with(marker.as_bytes()) {
            if from.read(&mut byte).unwrap() == 0 {
                return seen;
            }
            seen.push(byte[0]);
        }
        react(control);
    }
    from.read_to_end(&mut seen).unwrap();
    seen
}
