// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where the serial port goes.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Where the serial port goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SerialConfig {
    /// Standard input and output.
    #[default]
    Stdio,
    /// Nowhere: output is dropped, and there is no input.
    Null,
    /// Output goes to a file, which is created or emptied.
    File(PathBuf),
    /// A Unix socket that one client at a time can connect to.
    Socket(PathBuf),
}

impl FromStr for SerialConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "null" => Ok(Self::Null),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("socket", path)) if !path.is_empty() => Ok(Self::Socket(path.into())),
            _ => Err(ConfigError::Serial(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serial_port_goes_where_it_is_told() {
        assert_eq!("stdio".parse(), Ok(SerialConfig::Stdio));
        assert_eq!("null".parse(), Ok(SerialConfig::Null));
        assert_eq!("file=a=b".parse(), Ok(SerialConfig::File("a=b".into())));
        assert_eq!("socket=s".parse(), Ok(SerialConfig::Socket("s".into())));
        for text in ["", "file", "file=", "socket=", "tty", "stdio=1"] {
            assert_eq!(text.parse::<SerialConfig>(), Err(ConfigError::Serial(text.to_owned())));
        }
    }
}
