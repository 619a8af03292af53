// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Networks of a benchmark's own: nobody else sees them, and they go with the process, in whatever way it ends.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::{getgid, getuid};

use crate::sys;

/// A network namespace with a loopback interface.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Makes one and takes this thread there, with all that it starts from now on.
    ///
    /// The first one of a user without privileges needs a process without other threads: the user becomes root in a namespace of
    /// users.
    pub fn enter_new() -> Result<Self> {
        const CURE: &str = "no network namespace can be made: become root, or let users make namespaces \
            (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)";
        match sys::unshare(libc::CLONE_NEWNET) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let (user, group) = (getuid().as_raw(), getgid().as_raw());
                sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET).context(CURE)?;
                // In this order (user_namespaces(7)): without privileges, groups can't be mapped before they can't be changed.
                let write = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text).context(CURE);
                write("uid_map", format!("0 {user} 1"))?;
                write("setgroups", "deny".to_owned())?;
                write("gid_map", format!("0 {group} 1"))?;
            }
            other => other.context(CURE)?,
        }
        let namespace = File::open("/proc/thread-self/ns/net").context("can't open this network namespace")?;
        ip("link set lo up")?;
        Ok(Self(namespace))
    }

    /// Takes this thread back there.
    pub fn enter(&self) -> Result<()> {
        sys::enter(self.0.as_fd()).context("can't enter a network namespace")
    }
}

/// iproute2, which has to succeed.
pub fn ip(arguments: &str) -> Result<()> {
    let output = match Command::new("ip").args(arguments.split_whitespace()).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("ip is missing: install it with: apt-get install --no-install-recommends --yes iproute2")
        }
        output => output.context("ip doesn't run")?,
    };
    if !output.status.success() {
        bail!("'ip {arguments}': {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A tap, until it is dropped.
#[derive(Debug)]
pub struct Tap {
    /// Its name.
    pub name: String,
}

impl Tap {
    /// Makes one in the namespace of this thread, with a virtio header, and with this address of the host's on it, as
    /// `192.0.2.1/30`.
    pub fn make(name: &str, many_queues: bool, address: &str) -> Result<Self> {
        // What iproute2 says of it has no name in it.
        open_tun()?;
        let multi_queue = if many_queues { " multi_queue" } else { "" };
        ip(&format!("tuntap add name {name} mode tap vnet_hdr{multi_queue}"))?;
        let tap = Self { name: name.to_owned() };
        // Nothing but what is measured: no duplicate address detection, nobody who looks for routers. Without IPv6, there is no
        // such file.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        ip(&format!("address add {address} dev {name}"))?;
        ip(&format!("link set {name} up"))?;
        Ok(tap)
    }

    /// Opens it, in the namespace of this thread, so that no read and no write waits.
    pub fn open(&self) -> Result<File> {
        let file = open_tun()?;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        sys::attach_tap(&file, &self.name, flags).with_context(|| format!("can't open the tap {}", self.name))?;
        Ok(file)
    }
}

fn open_tun() -> Result<File> {
    const CANT: &str =
        "can't open /dev/net/tun: load the module tun where it is missing; become root, or give this user access";
    File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").context(CANT)
}

impl Drop for Tap {
    fn drop(&mut self) {
        // It goes with its namespace at the latest.
        let _ = ip(&format!("link delete {}", self.name));
    }
}
