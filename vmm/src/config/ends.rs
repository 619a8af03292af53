// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What becomes of a VM when its guest has ended in another way than by powering off.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// What becomes of a VM whose guest reboots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReboot {
    /// It ends.
    #[default]
    Exit,
    /// The machine is reset, and boots again.
    Reset,
}

/// What becomes of a VM whose guest has crashed, or hangs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCrash {
    /// It ends.
    #[default]
    Exit,
    /// It stands still, with its memory as it is, until its host ends it.
    Pause,
    /// The machine is reset, and boots again.
    Reset,
}

impl FromStr for OnReboot {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "exit" => Ok(Self::Exit),
            "reset" => Ok(Self::Reset),
            _ => Err(ConfigError::Policy { text: text.to_owned(), choice: "exit or reset" }),
        }
    }
}

impl FromStr for OnCrash {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "exit" => Ok(Self::Exit),
            "pause" => Ok(Self::Pause),
            "reset" => Ok(Self::Reset),
            _ => Err(ConfigError::Policy { text: text.to_owned(), choice: "exit, reset or pause" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_names() {
        assert_eq!(["exit", "reset"].map(|text| text.parse::<OnReboot>().unwrap()), [OnReboot::Exit, OnReboot::Reset]);
        let all = [OnCrash::Exit, OnCrash::Pause, OnCrash::Reset];
        assert_eq!(["exit", "pause", "reset"].map(|text| text.parse::<OnCrash>().unwrap()), all);
        assert_eq!(serde_json::to_string(&all).unwrap(), r#"["exit","pause","reset"]"#);
        let error = "pause".parse::<OnReboot>().unwrap_err().to_string();
        assert_eq!(error, "'pause' is nothing that can be done then: give exit or reset");
        let error = "restart".parse::<OnCrash>().unwrap_err().to_string();
        assert_eq!(error, "'restart' is nothing that can be done then: give exit, reset or pause");
    }
}
