// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The entropy device: from what a configuration says of it to a device.

use devices::virtio::rng;

use super::{Machine, rate};
use crate::build::BuildError;
use crate::config::{Rng, Transport};

/// Adds the device.
pub(crate) fn add(machine: &mut Machine<'_>, config: &Rng, default: Transport) -> Result<(), BuildError> {
    let device = rng::Rng::new("rng", rate::limiter(config.bw, None));
    let device = device.map_err(|error| BuildError::Rng { problem: error.to_string() })?;
    machine.add_virtio(Box::new(device), default)
}
