// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether a port of the host's can be forwarded. passt itself only says that it couldn't have a port, not why, and is
//! content with a part of the host's addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::config::{Forward, Protocol};

/// Refuses a port that can't be had. What it looks at is free again when it returns.
pub(super) fn check(forward: &Forward) -> Result<(), String> {
    let address = forward.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let place = SocketAddr::new(address, forward.host_port.into());
    let bound = match forward.protocol {
        Protocol::Tcp => TcpListener::bind(place).map(drop),
        Protocol::Udp => UdpSocket::bind(place).map(drop),
    };
    bound.map_err(|error| format!("hostfwd={forward}: {}", why(&error, forward)))
}

fn why(error: &io::Error, forward: &Forward) -> String {
    let port = forward.host_port;
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("port {port} is taken by another program: give another one"),
        io::ErrorKind::PermissionDenied => {
            format!(
                "port {port} is for privileged programs: give one from 1024 on, or see net.ipv4.ip_unprivileged_port_start"
            )
        }
        io::ErrorKind::AddrNotAvailable => match forward.address {
            Some(address) => format!("{address} is no address of this host"),
            None => error.to_string(),
        },
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told_from_an_address_that_is_not_there() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let check = |text: &str| check(&text.parse().unwrap());
        let forward = format!("tcp:127.0.0.1:{port}-:80");
        let said = check(&forward).unwrap_err();
        assert_eq!(said, format!("hostfwd={forward}: port {port} is taken by another program: give another one"));
        assert!(check(&format!("tcp:{port}-:80")).unwrap_err().contains("is taken"));
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(check(&format!("udp:127.0.0.1:{port}-:80")).unwrap_err().contains("is taken"));
        let said = check("tcp:192.0.2.99:8080-:80").unwrap_err();
        assert_eq!(said, "hostfwd=tcp:192.0.2.99:8080-:80: 192.0.2.99 is no address of this host");
        drop(taken);
        assert_eq!(check(&format!("udp:127.0.0.1:{port}-:80")), Ok(()));
    }
}
