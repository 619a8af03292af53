// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The socket device: from what a configuration says of it to a device.

use std::collections::BTreeMap;

use devices::virtio::vsock::{self, PortHandler, VsockOptions};

use super::Machine;
use crate::build::BuildError;
use crate::config::{Transport, Vsock};
use crate::unix_socket::{self, SocketFile};

/// Adds the device; gives its socket's file, which is to go with the VM. `ports` are those of the host's that this process
/// serves itself.
pub(crate) fn add(
    machine: &mut Machine<'_>,
    vsock: &Vsock,
    ports: BTreeMap<u32, Box<dyn PortHandler>>,
    default: Transport,
) -> Result<Option<SocketFile>, BuildError> {
    vsock.check().map_err(problem)?;
    let (host, file) = match &vsock.socket {
        Some(path) => {
            let (listener, file) = unix_socket::listen("vsock socket", path)?;
            (Some((listener, path.clone())), Some(file))
        }
        None => (None, None),
    };
    let options = VsockOptions { cid: vsock.cid, host, ports };
    let device = vsock::Vsock::new("vsock", options).map_err(|error| problem(error.to_string()))?;
    machine.add_virtio(Box::new(device), vsock.transport.unwrap_or(default))?;
    Ok(file)
}

fn problem(problem: String) -> BuildError {
    BuildError::Vsock { problem }
}
