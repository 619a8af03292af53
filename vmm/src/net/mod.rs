// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Opening what a network card is connected to: with an answer to each way in which that fails.

mod inherited;
mod link;
mod name_servers;
pub(crate) mod passt;
mod peer;
mod ports;
mod sys;
mod tap;
mod vhost;

use std::fmt::Display;

use devices::virtio::net::{Backend, MIN_MTU};

use crate::build::BuildError;
use crate::config::{Config, Net, NetBackend};
pub(crate) use passt::Passt;

/// What all cards are connected to, open: in the order of the configuration.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// For each card, what each of its queue pairs is connected to.
    pub(crate) backends: Vec<Vec<Backend>>,
    /// What we started ourselves. It ends with this.
    pub(crate) passts: Vec<Passt>,
}

/// For each card, what this process was started with for it. To be called before anything is opened, which might get one of
/// their numbers, if they aren't open.
pub(crate) fn inherit(config: &Config) -> Result<Vec<Option<Vec<Backend>>>, BuildError> {
    for net in &config.nets {
        net.check().map_err(|text| problem(net, text))?;
    }
    let unshared = |net: &&Net| matches!(net.backend, NetBackend::VhostUser(_)) && !config.memory.shared;
    if let Some(net) = config.nets.iter().find(unshared) {
        let size = config.memory.size;
        return Err(problem(net, format!("has to be given the guest's memory: add '--memory {size},shared=on'")));
    }
    check_sharing(&config.nets)?;
    let inherited = config.nets.iter().map(|net| match &net.backend {
        NetBackend::Fd(fds) => inherited::open(fds).map(Some).map_err(|text| problem(net, text)),
        _ => Ok(None),
    });
    inherited.collect()
}

/// Opens what all cards are connected to.
pub(crate) fn open(config: &Config, inherited: Vec<Option<Vec<Backend>>>) -> Result<Opened, BuildError> {
    let mut opened = Opened::default();
    for (net, inherited) in config.nets.iter().zip(inherited) {
        let cant = |text| problem(net, text);
        let backends = match (&net.backend, inherited) {
            (_, Some(backends)) => backends,
            (NetBackend::Tap(name), None) => tap::open(name, net.pairs(), net.mtu).map_err(cant)?,
            (NetBackend::VhostUser(path), None) => vec![vhost::connect(path, net.pairs()).map_err(cant)?],
            (NetBackend::Passt(path), None) => vec![passt::connect(path).map_err(cant)?],
            (NetBackend::User(user), None) => {
                let (passt, backend) = Passt::start(user, net.mtu).map_err(cant)?;
                opened.passts.push(passt);
                vec![backend]
            }
            (NetBackend::Fd(_), None) => Vec::new(),
        };
        opened.backends.push(if net.vhost { vhost::offload(backends).map_err(cant)? } else { backends });
    }
    Ok(opened)
}

/// The MTU of the interface that taps are of, in bytes, if it can be had.
pub(crate) fn interface_mtu(backends: &[Backend]) -> Option<u16> {
    let Some(Backend::Tap { file, .. } | Backend::VhostTap { file, .. }) = backends.first() else { return None };
    u16::try_from(sys::tap_mtu(file).ok()?).ok().filter(|mtu| *mtu >= MIN_MTU)
}

/// Refuses what two cards would have.
fn check_sharing(nets: &[Net]) -> Result<(), BuildError> {
    for (at, net) in nets.iter().enumerate() {
        let before = || nets.iter().take(at).map(|net| &net.backend);
        let taken = match &net.backend {
            NetBackend::Tap(_) | NetBackend::Passt(_) | NetBackend::VhostUser(_) => {
                before().any(|other| *other == net.backend)
            }
            NetBackend::Fd(fds) => {
                before().any(|other| matches!(other, NetBackend::Fd(other) if other.iter().any(|fd| fds.contains(fd))))
            }
            NetBackend::User(user) => before().any(|other| match other {
                NetBackend::User(other) => other.hostfwd.iter().any(|other| {
                    user.hostfwd.iter().any(|own| (own.protocol, own.host_port) == (other.protocol, other.host_port))
                }),
                _ => false,
            }),
        };
        if taken {
            return Err(problem(net, "another card of this machine has it: give each its own"));
        }
    }
    Ok(())
}

/// Says which card something is wrong with.
pub(crate) fn problem(net: &Net, problem: impl Display) -> BuildError {
    let what = match &net.backend {
        NetBackend::Tap(name) => format!("tap {name}"),
        NetBackend::Fd(fds) => format!("fd {}", fds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        NetBackend::Passt(path) => format!("passt {}", path.display()),
        NetBackend::VhostUser(path) => format!("vhost-user {}", path.display()),
        NetBackend::User(_) => "user".to_owned(),
    };
    BuildError::Net { what, problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_of_vhost_user_takes_shared_memory() {
        let nets = vec!["vhost-user=absent".parse().unwrap()];
        let mut config = Config { nets, memory: "1G".parse().unwrap(), ..Config::new("k") };
        let error = inherit(&config).unwrap_err().to_string();
        let cure = "has to be given the guest's memory: add '--memory 1G,shared=on'";
        assert_eq!(error, format!("net vhost-user absent: {cure}"));
        config.memory.shared = true;
        let error = open(&config, inherit(&config).unwrap()).unwrap_err().to_string();
        assert_eq!(error, "net vhost-user absent: there is no such socket: start a vhost-user-net backend there first");
    }

    #[test]
    fn what_two_cards_would_have_is_refused() {
        let config = |nets: &[&str]| Config {
            nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
            memory: "1G,shared=on".parse().unwrap(),
            ..Config::new("k")
        };
        for (nets, what) in [
            (["tap=a", "tap=a,mtu=1400"], "tap a"),
            (["passt=s", "passt=s"], "passt s"),
            (["vhost-user=s", "vhost-user=s"], "vhost-user s"),
            (["fd=[30,31]", "fd=[32,31]"], "fd 32, 31"),
            (["user,hostfwd=udp:80-:80", "user,hostfwd=udp:127.0.0.1:80-:81"], "user"),
        ] {
            let error = inherit(&config(&nets)).unwrap_err().to_string();
            assert_eq!(error, format!("net {what}: another card of this machine has it: give each its own"));
        }
        let apart = ["user,hostfwd=udp:80-:80", "user,hostfwd=tcp:80-:80"].map(|net| net.parse().unwrap());
        assert!(check_sharing(&apart).is_ok());
    }
}
