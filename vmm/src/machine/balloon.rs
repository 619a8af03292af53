// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The balloon: from what a configuration says of it to a device.

use std::time::Duration;

use devices::virtio::balloon::{self, BalloonControl, BalloonOptions};

use super::Machine;
use crate::build::BuildError;
use crate::config::{Balloon, Memory, Transport};

/// Adds the device.
pub(crate) fn add(
    machine: &mut Machine<'_>,
    config: &Balloon,
    memory: Memory,
    default: Transport,
) -> Result<BalloonControl, BuildError> {
    let options = BalloonOptions {
        ram: memory.size.bytes(),
        target: config.size,
        deflate_on_oom: config.deflate_on_oom,
        free_page_reporting: config.free_page_reporting,
        free_page_hinting: config.free_page_hinting,
        statistics_interval: config.stats.map(|seconds| Duration::from_secs(seconds.get().into())),
    };
    let device = balloon::Balloon::new("balloon", options);
    let device = device.map_err(|error| BuildError::Balloon { problem: error.to_string() })?;
    let control = device.control();
    machine.add_virtio(Box::new(device), default)?;
    Ok(control)
}
