// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A socket device as a configuration has it, and as people write it: `cid=3,socket=PATH`.

use std::path::PathBuf;
use std::str::FromStr;

use devices::virtio::vsock::{MAX_CID, MIN_CID, port_path};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::key_values::{Grammar, KeyValues};
use super::transport::{self, Transport};
use crate::unix_socket;

/// Sockets between programs of the guest and of the host, without a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Vsock {
    /// The guest's context ID, from 3 on.
    pub cid: u32,
    /// A Unix socket: a program of the host connects to it and says `CONNECT <port>`; with `_<port>` behind it, it is where one
    /// listens for the guest.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Whether programs of the host reach the guest by `AF_VSOCK`, which the kernel's vhost-vsock makes.
    #[serde(default)]
    pub vhost: bool,
    /// How the guest finds it; the VM's way when nothing is said.
    #[serde(default)]
    pub transport: Option<Transport>,
}

const KEYS: [&str; 4] = ["cid", "socket", "vhost", "transport"];
const GRAMMAR: Grammar = Grammar { with_burst: &[], repeated: &[], lists: &[] };

impl Vsock {
    /// A device whose guest has this context ID, and which nothing of the host's leads to yet.
    pub fn new(cid: u32) -> Self {
        Self { cid, socket: None, vhost: false, transport: None }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut pairs = KeyValues::parse(text, &GRAMMAR)?;
        let cid = pairs.take_number("cid", &format!("a number from {MIN_CID} to {MAX_CID}"))?;
        let cid = cid.ok_or_else(|| format!("it has no context ID: add cid={MIN_CID}"))?;
        let this = Self {
            cid,
            socket: pairs.take("socket").map(PathBuf::from),
            vhost: pairs.take_switch("vhost")?.unwrap_or(false),
            transport: pairs.take_one_of("transport", &transport::NAMES, transport::CHOICE)?,
        };
        pairs.finish(&KEYS)?;
        this.check()?;
        Ok(this)
    }

    /// Says what is wrong on any host, and the cure.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(MIN_CID..=MAX_CID).contains(&self.cid) {
            return Err(format!("cid={}: give a number from {MIN_CID} to {MAX_CID}", self.cid));
        }
        match &self.socket {
            None if !self.vhost => Err("nothing leads to it: add socket=PATH or vhost=on".to_owned()),
            Some(path) => {
                // The path of the last port is the longest one.
                let len = port_path(path, u32::MAX).as_os_str().len();
                let max = unix_socket::MAX_PATH;
                if len > max {
                    let text = format!("socket={}: with _<port> behind it, it has up to {len} bytes", path.display());
                    return Err(format!("{text}, but a socket's path has at most {max}: use a relative one"));
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl FromStr for Vsock {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text).map_err(|problem| ConfigError::Vsock { text: text.to_owned(), problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_what_its_keys_say() {
        let plain: Vsock = "cid=3,socket=dir/v.sock".parse().unwrap();
        assert_eq!(plain, Vsock { socket: Some("dir/v.sock".into()), ..Vsock::new(3) });
        let full: Vsock = "vhost=on,transport=pci,cid=4294967294".parse().unwrap();
        assert_eq!(full, Vsock { vhost: true, transport: Some(Transport::Pci), ..Vsock::new(u32::MAX - 1) });
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<Vsock>(&json).unwrap(), full);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_cure() {
        let long = format!("cid=3,socket={}", "x".repeat(97));
        for (text, expected) in [
            ("socket=v", "it has no context ID: add cid=3"),
            ("cid=2,socket=v", "cid=2: give a number from 3 to 4294967294"),
            ("cid=4294967295,socket=v", "cid=4294967295: give a number from 3 to 4294967294"),
            ("cid=-1,socket=v", "cid=-1: give a number from 3 to 4294967294"),
            ("cid=3", "nothing leads to it: add socket=PATH or vhost=on"),
            ("cid=3,socket=v,uds=x", "there is no key 'uds': there are cid, socket, vhost, transport"),
            (
                &long,
                &format!(
                    "socket={}: with _<port> behind it, it has up to 108 bytes, but a socket's path has at most 107: \
                     use a relative one",
                    "x".repeat(97)
                ),
            ),
        ] {
            let Err(ConfigError::Vsock { problem, .. }) = text.parse::<Vsock>() else { panic!("{text}") };
            assert_eq!(problem, expected, "{text}");
        }
    }
}
