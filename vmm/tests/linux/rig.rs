// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Boots the guest that `cargo xtask guest` makes, and waits for what it says.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use vmm::{Config, Console, Control, Exit, Vm};

use crate::sound::assert_sound;

/// What a guest is given to say something new. Only a VM that hangs reaches it.
const PATIENCE: Duration = Duration::from_secs(90);

/// What makes the kernel boot fast and speak up only when something is wrong.
pub(crate) const CMDLINE: &str =
    "console=ttyS0 reboot=k panic=-1 quiet i8042.noaux i8042.nokbd 8250.nr_uarts=1 cryptomgr.notests";

/// A file of the guest's.
pub(crate) fn guest_file(name: &str) -> PathBuf {
    std::env::var_os("VMM_GUEST_DIR").map_or_else(|| "/guest".into(), PathBuf::from).join(name)
}

/// A `vmm` that is about to be run.
pub(crate) struct Boot {
    arguments: Vec<String>,
    cmdline: String,
    stdin: bool,
    nobody: bool,
    descriptors: Option<(String, [i32; 2])>,
    environment: Vec<(String, String)>,
}

impl Boot {
    /// The 64-bit vmlinux, with the root file system read-only.
    pub(crate) fn new() -> Self {
        Self::with(&["--kernel", &path(&guest_file("vmlinux"))])
            .rootfs(&format!("{},ro", path(&guest_file("rootfs.ext4"))))
    }

    pub(crate) fn with(kernel: &[&str]) -> Self {
        let arguments = vec!["run".to_owned(), "--initrd".to_owned(), path(&guest_file("initrd"))];
        Self {
            arguments,
            cmdline: CMDLINE.to_owned(),
            stdin: false,
            nobody: false,
            descriptors: None,
            environment: Vec::new(),
        }
        .args(kernel)
    }

    pub(crate) fn rootfs(self, image: &str) -> Self {
        self.args(&["--rootfs", image])
    }

    pub(crate) fn args(mut self, more: &[&str]) -> Self {
        self.arguments.extend(more.iter().map(ToString::to_string));
        self
    }

    /// Adds to the kernel's command line.
    pub(crate) fn say(mut self, more: &str) -> Self {
        self.cmdline = format!("{} {more}", self.cmdline);
        self
    }

    pub(crate) fn cmdline(mut self, whole: &str) -> Self {
        self.cmdline = whole.to_owned();
        self
    }

    /// Keeps standard input open.
    pub(crate) fn stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Runs it as a user who may do nothing but use /dev/kvm.
    pub(crate) fn by_nobody(mut self) -> Self {
        self.nobody = true;
        self
    }

    /// Adds to its environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it with a file open twice, by these numbers below 10.
    pub(crate) fn with_descriptors(mut self, file: &str, numbers: [i32; 2]) -> Self {
        self.descriptors = Some((file.to_owned(), numbers));
        self
    }

    /// Has the guest run a script, from its second disk.
    pub(crate) fn script(self, script: &Image) -> Self {
        self.args(&["--disk", &format!("path={},readonly=on", script.path)]).say("vmm.run=\"sh /dev/vdb\"")
    }

    pub(crate) fn start(self) -> Running {
        let mut command = vmm(&self.arguments);
        if let Some((file, [one, other])) = &self.descriptors {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("exec \"$@\" {one}<>{file} {other}<>{file}"), "sh"]);
            shell.arg(command.get_program()).args(command.get_args());
            command = shell;
        }
        if self.nobody {
            const NOBODY: u32 = 65534;
            let group = std::fs::metadata("/dev/kvm").unwrap().gid();
            command.uid(NOBODY).gid(if group == 0 { NOBODY } else { group });
        }
        command.args(["--cmdline", &self.cmdline]).env_remove("NOTIFY_SOCKET").envs(self.environment);
        command.stdin(if self.stdin { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (send, output) = mpsc::channel();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = stdout.read(&mut bytes) {
                let _ = send.send(bytes[..len].to_vec());
            }
        });
        let errors = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let stdin = child.stdin.take();
        Running { child, stdin, output, errors: Some(errors), seen: Vec::new() }
    }

    /// Boots and waits for the end.
    pub(crate) fn run(self) -> Ended {
        self.start().wait()
    }
}

/// A VM that its test gives up must not run on: the test would never end.
struct StopsWhenPanicking(Control);

impl Drop for StopsWhenPanicking {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// What the host does when the guest has said something.
pub(crate) type Reaction = (&'static str, Box<dyn FnOnce(&Control) + Send>);

/// Boots with the library, and lets the host react once the guest has said `marker`; what it said until it powered off.
pub(crate) fn run_and_react(
    config: &Config,
    marker: &'static str,
    react: impl FnOnce(&Control) + Send + 'static,
) -> String {
    run_and_react_to_all(config, vec![(marker, Box::new(react))])
}

/// The same, with many reactions in this order.
pub(crate) fn run_and_react_to_all(config: &Config, reactions: Vec<Reaction>) -> String {
    let (mut output, guest) = UnixStream::pair().unwrap();
    let vm = Vm::build(config, Some(Console { input: None, output: Box::new(guest) })).unwrap();
    let control = StopsWhenPanicking(vm.control());
    let reader = thread::spawn(move || {
        let (mut seen, mut bytes, mut reactions) = (Vec::new(), [0; 4096], reactions.into_iter().peekable());
        while let Ok(len @ 1..) = output.read(&mut bytes) {
            seen.extend_from_slice(&bytes[..len]);
            let text = String::from_utf8_lossy(&seen);
            while let Some((_, react)) = reactions.next_if(|(marker, _)| text.contains(marker)) {
                react(&control.0);
            }
        }
        String::from_utf8_lossy(&seen).into_owned()
    });
    assert_eq!(vm.run(Vec::new()).unwrap(), Exit::PowerOff);
    reader.join().unwrap()
}

/// `vmm` with arguments, from wherever the tests have it.
pub(crate) fn vmm<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(std::env::var_os("VMM_BIN").unwrap_or_else(|| "vmm".into()));
    command.args(arguments);
    command
}

/// Runs a tool, which has to succeed.
pub(crate) fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
}

pub(crate) fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A VM that runs. Killed when it is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    errors: Option<thread::JoinHandle<String>>,
    seen: Vec<u8>,
}

/// How a VM ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Running {
    fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.seen)
    }

    /// Waits until the guest has said `text`.
    pub(crate) fn expect(&mut self, text: &str) -> &mut Self {
        while !self.text().contains(text) {
            match self.output.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(error) => panic!("the guest didn't say {text:?} ({error}), but:\n{}", self.text()),
            }
        }
        self
    }

    /// Waits for what the guest says from `start` to `end`.
    pub(crate) fn line(&mut self, start: &str, end: &str) -> String {
        self.expect(start);
        let at = self.text().find(start).unwrap();
        loop {
            if let Some(len) = self.text()[at..].find(end) {
                return self.text()[at..at + len].to_owned();
            }
            match self.output.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(error) => panic!("the guest didn't say {start:?} and {end:?} ({error}), but:\n{}", self.text()),
            }
        }
    }

    pub(crate) fn type_in(&mut self, text: &str) -> &mut Self {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        self
    }

    pub(crate) fn signal(&mut self, name: &str) -> &mut Self {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> Ended {
        loop {
            match self.output.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the VM hangs; the guest said:\n{}", self.text()),
            }
        }
        let status: ExitStatus = self.child.wait().unwrap();
        let errors = self.errors.take().unwrap().join().unwrap();
        Ended { status: status.code(), output: self.text().into_owned(), errors }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The guest said hello and powered off.
    pub(crate) fn assert_clean(&self) -> &Self {
        assert_eq!((self.status, self.errors.as_str()), (Some(0), ""), "{}", self.output);
        assert!(self.output.contains("hello from the guest:"), "{}", self.output);
        self
    }

    pub(crate) fn assert_says(&self, text: &str) -> &Self {
        assert!(self.output.contains(text), "{text:?} is not in:\n{}", self.output);
        self
    }
}

/// An image that a test may write. It is sound when the test is over, or the test fails.
pub(crate) struct Image {
    _dir: TempDir,
    pub(crate) path: String,
}

impl Drop for Image {
    fn drop(&mut self) {
        // Its VM has ended: it came after the image, so it is dropped before.
        if !thread::panicking() {
            assert_sound(Path::new(&self.path));
        }
    }
}

impl Image {
    pub(crate) fn rootfs() -> Self {
        Self::copy_of(&guest_file("rootfs.ext4"))
    }

    pub(crate) fn copy_of(source: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("image");
        std::fs::copy(source, &to).unwrap();
        Self { path: path(&to), _dir: dir }
    }

    pub(crate) fn empty(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("image");
        std::fs::File::create(&to).unwrap().set_len(size).unwrap();
        Self { path: path(&to), _dir: dir }
    }

    /// A script for a shell, which everybody may read.
    pub(crate) fn script(text: &str) -> Self {
        let image = Self::empty(0);
        let blanks = "\n".repeat(text.len().next_multiple_of(512) - text.len());
        std::fs::write(&image.path, format!("{text}{blanks}")).unwrap();
        image.for_everybody()
    }

    /// Lets every user read and write it.
    pub(crate) fn for_everybody(self) -> Self {
        std::fs::set_permissions(self._dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&self.path, PermissionsExt::from_mode(0o666)).unwrap();
        self
    }

    /// A qcow2 image with the bytes of another one.
    pub(crate) fn qcow2_of(source: &Path) -> Self {
        let image = Self::empty(0);
        succeeds(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(source).arg(&image.path));
        image
    }

    /// An empty qcow2 image.
    pub(crate) fn qcow2(size: u64) -> Self {
        let image = Self::empty(0);
        succeeds(Command::new("qemu-img").args(["create", "-f", "qcow2", &image.path, &size.to_string()]));
        image
    }

    /// Both have the same content, whatever their formats.
    pub(crate) fn assert_same(&self, format: &str, other: &str, other_format: &str) {
        let formats = ["compare", "-f", format, "-F", other_format, &self.path, other];
        succeeds(Command::new("qemu-img").args(formats));
    }

    /// Bytes that it takes on the host.
    pub(crate) fn space(&self) -> u64 {
        std::fs::metadata(&self.path).unwrap().blocks() * 512
    }

    /// On a file system that is not in memory: one that has direct I/O.
    pub(crate) fn on_disk(size: u64) -> Self {
        // There is none in the testbed, whose `/tmp` is in memory.
        std::fs::create_dir_all("/var/tmp").unwrap();
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let to = dir.path().join("image");
        std::fs::File::create(&to).unwrap().set_len(size).unwrap();
        Self { path: path(&to), _dir: dir }
    }

    /// Full of bytes that are the same in every run, and don't repeat.
    pub(crate) fn random(size: usize) -> Self {
        let image = Self::empty(size as u64);
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        std::fs::write(&image.path, words.flatten().take(size).collect::<Vec<u8>>()).unwrap();
        image
    }

    /// Runs a tool on the image: its exit status and what it printed.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(program).args(arguments).arg(&self.path).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }
}
