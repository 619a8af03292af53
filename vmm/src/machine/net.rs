// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Network cards: from what a configuration says of them to network devices.

use std::net::IpAddr;

use devices::virtio::net::{Antispoof, Backend, Net as Card, NetControl, NetOptions};

use super::{Machine, rate};
use crate::build::BuildError;
use crate::config::{Net, Transport, default_mac};
use crate::net::{interface_mtu, problem};

/// Adds a card on what it is connected to: the first one has index 0. `vm` is the machine's name.
pub(crate) fn add(
    machine: &mut Machine<'_>,
    vm: &str,
    index: u32,
    net: &Net,
    backends: Vec<Backend>,
    default: Transport,
) -> Result<NetControl, BuildError> {
    let mut options = options(vm, index, net);
    // What the host's side of a tap can't take, or the guest would never use, is of no use to either.
    options.mtu = options.mtu.or_else(|| interface_mtu(&backends));
    let card = Card::new(format!("net{index}"), backends, options);
    let card = card.map_err(|error| problem(net, error))?;
    let control = card.control();
    machine.add_virtio(Box::new(card), net.transport.unwrap_or(default))?;
    Ok(control)
}

fn options(vm: &str, index: u32, net: &Net) -> NetOptions {
    let mut options = NetOptions::new(net.mac.unwrap_or_else(|| default_mac(vm, index)));
    options.mtu = net.mtu;
    options.queue_size = net.queue_size;
    options.rx_limiters = rate::limiter(net.bw_rx, net.ops_rx).into_iter().collect();
    options.tx_limiters = rate::limiter(net.bw_tx, net.ops_tx).into_iter().collect();
    options.antispoof = net.antispoof.then(|| {
        let mut allowed = Antispoof::default();
        for address in &net.ip {
            match address {
                IpAddr::V4(address) => allowed.ipv4.push(*address),
                IpAddr::V6(address) => allowed.ipv6.push(*address),
            }
        }
        allowed
    });
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_told_what_the_configuration_says() {
        let told = |text: &str| options("vm", 1, &text.parse().unwrap());
        let plain = told("tap=a");
        assert_eq!((plain.mac, plain.mtu, plain.queue_size), (default_mac("vm", 1), None, 256));
        assert!(plain.rx_limiters.is_empty() && plain.tx_limiters.is_empty() && plain.antispoof.is_none());
        let full = told(
            "tap=a,mac=52:54:00:12:34:56,mtu=1400,queue-size=64,bw-rx=1M,ops-tx=5,antispoof=on,ip=2001:db8::7,ip=192.0.2.7",
        );
        assert_eq!((full.mac.to_string().as_str(), full.mtu, full.queue_size), ("52:54:00:12:34:56", Some(1400), 64));
        assert_eq!((full.rx_limiters.len(), full.tx_limiters.len()), (1, 1));
        let allowed = full.antispoof.unwrap();
        assert_eq!(allowed.ipv4, ["192.0.2.7".parse::<std::net::Ipv4Addr>().unwrap()]);
        assert_eq!(allowed.ipv6, ["2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap()]);
        assert_eq!(told("tap=a,antispoof=on").antispoof, Some(Antispoof::default()));
    }
}
