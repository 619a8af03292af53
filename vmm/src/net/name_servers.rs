// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host's name servers, as far as a guest can reach them that isn't let at the host's loopback.
//!
//! A host with systemd-resolved names `127.0.0.53` in `resolv.conf`, and has the servers behind that in a file of its own
//! (systemd-resolved.service(8)).

use std::fs;
use std::net::IpAddr;

const USUAL: &str = "/etc/resolv.conf";
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// As many as a resolver looks at (resolv.conf(5)); passt has room for few more, and doesn't start with too many.
const MOST: usize = 3;

/// What the guest is to be told of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NameServers {
    /// Those of `resolv.conf`, which passt finds itself; there may be none.
    Usual,
    /// These.
    These(Vec<IpAddr>),
    /// The host has one, which is at its loopback, and nobody knows what is behind it.
    OutOfReach(IpAddr),
}

impl NameServers {
    pub(super) fn find() -> Self {
        // A file that can't be read is one that isn't there: to whoever looks for name servers, it is the same.
        Self::of(&fs::read_to_string(USUAL).unwrap_or_default(), || fs::read_to_string(BEHIND_RESOLVED).ok())
    }

    fn of(usual: &str, behind_resolved: impl FnOnce() -> Option<String>) -> Self {
        let all = servers(usual);
        let Some(first) = all.first().copied().filter(|_| all.iter().all(IpAddr::is_loopback)) else {
            return Self::Usual;
        };
        let behind: Vec<_> = servers(&behind_resolved().unwrap_or_default())
            .into_iter()
            .filter(|address| !address.is_loopback())
            .take(MOST)
            .collect();
        if behind.is_empty() { Self::OutOfReach(first) } else { Self::These(behind) }
    }
}

/// The addresses in a `resolv.conf` (resolv.conf(5)); one with a scope means something to this host alone.
fn servers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") { words.next()?.parse().ok() } else { None }
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_of_name_servers_that_it_can_reach() {
        let behind = || Some("nameserver 127.0.0.1\nnameserver 192.0.2.7\nnameserver 2001:db8::7\n".to_owned());
        let these = NameServers::These(vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()]);
        let local = IpAddr::from([127, 0, 0, 53]);
        assert_eq!(NameServers::of("# none\nnameserver 127.0.0.53\n", behind), these);
        assert_eq!(
            NameServers::of(" nameserver  127.0.0.53 # stub\nsearch test\n", || None),
            NameServers::OutOfReach(local)
        );
        assert_eq!(NameServers::of("nameserver ::1", || Some("nameserver ::1".to_owned())), {
            NameServers::OutOfReach("::1".parse().unwrap())
        });
        for usual in
            ["", "nameserver 192.0.2.1", "nameserver 127.0.0.1\nnameserver 192.0.2.1", "nameserver fe80::1%eth0"]
        {
            assert_eq!(NameServers::of(usual, behind), NameServers::Usual, "{usual}");
        }
    }
}
