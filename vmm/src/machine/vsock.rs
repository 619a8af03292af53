// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The socket device: from what a configuration says of it to a device.

use std::collections::BTreeMap;

use devices::virtio::vsock::{self, PortHandler, VhostVsock, VsockOptions};

use super::identity::Told;
use super::{Machine, default_transport};
use crate::build::BuildError;
use crate::config::{Config, Credential, Vsock};
use crate::notify::{self, Notifier};
use crate::unix_socket::{self, SocketFile};
use crate::vhost_device::{self, VHOST_VSOCK};

/// The context ID of a guest that has a socket device for nothing but notifications.
const NOTIFYING_CID: u32 = 3;

/// What there is besides the device.
#[derive(Debug, Default)]
pub(crate) struct Added {
    /// Goes with the VM.
    pub(crate) file: Option<SocketFile>,
    /// Hears what the guest says of itself.
    pub(crate) notifier: Option<Notifier>,
}

/// Adds the device, if the configuration wants one.
pub(crate) fn add(machine: &mut Machine<'_>, config: &Config, told: &mut Told) -> Result<Added, BuildError> {
    let mut added = Added::default();
    let mut ports: BTreeMap<u32, Box<dyn PortHandler>> = BTreeMap::new();
    if let Some(socket) = &config.notify_socket {
        if config.vsock.as_ref().is_some_and(|vsock| vsock.vhost) {
            return Err(problem("with vhost=on, the host can't be notified: use socket=".to_owned()));
        }
        let cant = |error| problem(format!("the service manager's socket {}: {error}", socket.display()));
        let (port, notifier) = notify::open(socket).map_err(cant)?;
        ports.insert(notify::PORT, Box::new(port));
        added.notifier = Some(notifier);
        told.add(&Credential::value(notify::CREDENTIAL, notify::address()))?;
    }
    let own = added.notifier.is_some().then(|| Vsock::new(NOTIFYING_CID));
    let Some(vsock) = config.vsock.as_ref().or(own.as_ref()) else { return Ok(added) };
    if config.vsock.is_some() {
        vsock.check().map_err(problem)?;
    }
    let transport = vsock.transport.unwrap_or_else(|| default_transport(config));
    if vsock.vhost {
        let vhost = vhost_device::open(VHOST_VSOCK).map_err(problem)?;
        let device = VhostVsock::new("vsock", vsock.cid, vhost).map_err(|error| problem(error.to_string()))?;
        machine.add_virtio(Box::new(device), transport)?;
        return Ok(added);
    }
    let mut host = None;
    if let Some(path) = &vsock.socket {
        let (listener, file) = unix_socket::listen("vsock socket", path)?;
        host = Some((listener, path.clone()));
        added.file = Some(file);
    }
    let options = VsockOptions { cid: vsock.cid, host, ports };
    let device = vsock::Vsock::new("vsock", options).map_err(|error| problem(error.to_string()))?;
    machine.add_virtio(Box::new(device), transport)?;
    Ok(added)
}

fn problem(problem: String) -> BuildError {
    BuildError::Vsock { problem }
}
