// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The system calls that the standard library doesn't have. All `unsafe` of this program is in here.

#![expect(unsafe_code, reason = "system calls take raw pointers")]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Turns the C convention of -1 and `errno` into a result.
fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result == -1 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn c_string(text: &str) -> Result<CString> {
    Ok(CString::new(text)?)
}

/// mount(2). `flags` are `libc::MS_*`.
pub(crate) fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong, options: &str) -> Result<()> {
    let (source, target) = (c_string(source)?, c_string(target)?);
    let (kind, options) = (c_string(kind)?, c_string(options)?);
    // SAFETY: the four pointers are to strings that live until the call is over, and end in NUL.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    check(result.into()).map(drop)
}

/// umount2(2) without flags.
pub(crate) fn unmount(target: &str) -> Result<()> {
    let target = c_string(target)?;
    // SAFETY: the pointer is to a string that lives until the call is over, and ends in NUL.
    check(unsafe { libc::umount2(target.as_ptr(), 0) }.into()).map(drop)
}

/// finit_module(2) without parameters.
pub(crate) fn load_module(module: &File) -> Result<()> {
    // SAFETY: the file is open, the parameter string is a constant that ends in NUL.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
    check(result).map(drop)
}

/// sync(2).
pub(crate) fn sync() {
    // SAFETY: sync has no arguments and can't fail.
    unsafe { libc::sync() };
}

/// reboot(2). `how` is one of `libc::LINUX_REBOOT_CMD_*`.
pub(crate) fn reboot(how: libc::c_int) -> Result<()> {
    // SAFETY: the call takes one number and touches no memory of this process.
    check(unsafe { libc::reboot(how) }.into()).map(drop)
}

/// Sends `signal` to every process but this one.
pub(crate) fn signal_everyone(signal: libc::c_int) {
    // SAFETY: kill takes two numbers; as process 1 this one is left out.
    unsafe { libc::kill(-1, signal) };
}

/// How a process ended, as a shell counts it: its exit status, or 128 and the signal.
pub(crate) fn shell_status(status: libc::c_int) -> i32 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

/// Waits for any child, which may be one that lost its own parent. An error means that there is none.
pub(crate) fn reap() -> Result<(u32, libc::c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the answer for as long as the call lasts.
        match check(unsafe { libc::waitpid(-1, &raw mut status, 0) }.into()) {
            Ok(pid) => return Ok((u32::try_from(pid).unwrap_or(0), status)),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps whatever ends until process `pid` has ended; gives its status as a shell counts it.
pub(crate) fn wait_for(pid: u32) -> Result<i32> {
    loop {
        let (ended, status) = reap()?;
        if ended == pid {
            return Ok(shell_status(status));
        }
    }
}

/// Reaps for ever.
pub(crate) fn reap_forever() -> ! {
    loop {
        if reap().is_err() {
            // No children: only a signal or the power button's thread can change anything now.
            // SAFETY: pause takes nothing and touches no memory of this process.
            unsafe { libc::pause() };
        }
    }
}

/// Makes `command` the leader of a session of its own whose terminal is its standard input.
pub(crate) fn own_terminal(command: &mut Command) {
    let become_leader = || {
        // SAFETY: between fork and exec; setsid is safe to call there.
        check(unsafe { libc::setsid() }.into())?;
        // SAFETY: between fork and exec; ioctl is safe to call there and TIOCSCTTY takes a number.
        check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }.into())?;
        Ok(())
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(become_leader) };
}

/// Opens a pseudo-terminal; gives its master and the path of its slave.
pub(crate) fn open_pty() -> Result<(File, String)> {
    let master = OpenOptions::new().read(true).write(true).open("/dev/ptmx")?;
    let unlock: libc::c_int = 0;
    let fd = master.as_raw_fd();
    // SAFETY: TIOCSPTLCK reads one int, which lives until the call is over.
    check(unsafe { libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlock) }.into())?;
    let mut number: libc::c_int = 0;
    // SAFETY: TIOCGPTN writes one int to a place that is valid until the call is over.
    check(unsafe { libc::ioctl(fd, libc::TIOCGPTN, &raw mut number) }.into())?;
    Ok((master, format!("/dev/pts/{number}")))
}

/// Tells a terminal its size.
pub(crate) fn set_window_size(terminal: &File, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives until the call is over.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into()).map(drop)
}

/// Opens `path` as standard input, output and error of `command`.
pub(crate) fn use_terminal(command: &mut Command, path: &str) -> Result<()> {
    let terminal = OpenOptions::new().read(true).write(true).open(path)?;
    command.stdin(Stdio::from(terminal.try_clone()?));
    command.stdout(Stdio::from(terminal.try_clone()?));
    command.stderr(Stdio::from(terminal));
    own_terminal(command);
    Ok(())
}

/// Watches a directory for names that appear in it.
pub(crate) struct DirectoryWatch(OwnedFd);

impl DirectoryWatch {
    /// Starts to watch. Look for what is there already after this call, never before it.
    pub(crate) fn new(directory: &str) -> Result<Self> {
        // SAFETY: the call takes a number.
        let fd = check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }.into())?;
        // SAFETY: the call above gave us this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let path = c_string(directory)?;
        let events = libc::IN_CREATE | libc::IN_MOVED_TO;
        // SAFETY: the path lives until the call is over, and ends in NUL.
        check(unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), events) }.into())?;
        Ok(Self(fd))
    }

    /// Forgets the events that have come in; the caller looks at the directory itself.
    pub(crate) fn drain(&self) {
        let mut buffer = [0_u8; 4096];
        let fd = self.0.as_raw_fd();
        // SAFETY: the buffer is valid for its length; the descriptor doesn't block.
        while unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
    }

    /// For use with [`wait_readable`].
    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits until one of the descriptors has something to read, at most so many milliseconds (-1: for ever).
/// Gives the positions of those that have; none of them when the time is over.
pub(crate) fn wait_readable(fds: &[RawFd], milliseconds: i32) -> Result<Vec<usize>> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: the pointer and the length are those of one vector.
    let result = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, milliseconds) };
    match check(result.into()) {
        Ok(_) => Ok(polled.iter().enumerate().filter(|(_, p)| p.revents != 0).map(|(i, _)| i).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Size of a file system in bytes: all of it, and what is free.
pub(crate) fn space(path: &str) -> Result<(u64, u64)> {
    let path = c_string(path)?;
    let mut answer = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in NUL, and the answer has a valid place for as long as the call lasts.
    check(unsafe { libc::statvfs(path.as_ptr(), answer.as_mut_ptr()) }.into())?;
    // SAFETY: the call succeeded, so that the kernel has filled it in.
    let answer = unsafe { answer.assume_init() };
    Ok((answer.f_blocks * answer.f_frsize, answer.f_bavail * answer.f_frsize))
}

/// Name, release and so on of the running kernel.
pub(crate) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
