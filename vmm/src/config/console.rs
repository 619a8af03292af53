// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A console's port as a configuration has it, and as people write it: `socket=PATH,name=NAME,log=PATH`.

use std::path::PathBuf;
use std::str::FromStr;

use devices::virtio::console::{MAX_NAME, MAX_PORTS, is_port_name};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::key_values::{Grammar, KeyValues};
use crate::unix_socket;

/// A port of the virtio console: the first one is the console `hvc0`, further ones are plain and have names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ConsoleConfig {
    /// Where it goes.
    pub place: ConsolePlace,
    /// What the guest calls it: `/dev/virtio-ports/NAME`.
    #[serde(default)]
    pub name: Option<String>,
    /// A file that all output is added to beside that, up to 64 MiB.
    #[serde(default)]
    pub log: Option<PathBuf>,
}

/// Where a port of the virtio console goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsolePlace {
    /// Standard input and output.
    Stdio,
    /// Output goes to a file, which is created or emptied.
    File(PathBuf),
    /// A Unix socket that one client at a time is served on. With `.size` behind it, it is where the terminal's size is told.
    Socket(PathBuf),
    /// A pseudo-terminal that is made for it.
    Pty,
}

const KEYS: [&str; 2] = ["name", "log"];
const GRAMMAR: Grammar = Grammar { with_burst: &[], repeated: &[], lists: &[] };

impl ConsoleConfig {
    /// A port without a name and a log.
    pub fn new(place: ConsolePlace) -> Self {
        Self { place, name: None, log: None }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (first, rest) = text.split_once(',').unwrap_or((text, ""));
        let place = match first.split_once('=') {
            None if first == "stdio" => ConsolePlace::Stdio,
            None if first == "pty" => ConsolePlace::Pty,
            Some(("file", path)) if !path.is_empty() => ConsolePlace::File(path.into()),
            Some(("socket", path)) if !path.is_empty() => ConsolePlace::Socket(path.into()),
            _ => return Err("it goes nowhere: begin with stdio, file=PATH, socket=PATH or pty".to_owned()),
        };
        let mut pairs = KeyValues::parse(rest, &GRAMMAR)?;
        let this =
            Self { place, name: pairs.take("name").map(str::to_owned), log: pairs.take("log").map(PathBuf::from) };
        pairs.finish(&KEYS)?;
        this.check()?;
        Ok(this)
    }

    /// Says what is wrong on any host, and the cure.
    fn check(&self) -> Result<(), String> {
        if let Some(name) = self.name.as_ref().filter(|name| !is_port_name(name)) {
            return Err(format!("name={name}: give 1 to {MAX_NAME} letters, digits, dots, dashes and underscores"));
        }
        if let ConsolePlace::Socket(path) = &self.place {
            let len = path.as_os_str().len().saturating_add(SIZE_SUFFIX.len());
            let max = unix_socket::MAX_PATH;
            if len > max {
                let text = format!("socket={}: with {SIZE_SUFFIX} behind it, it has {len} bytes", path.display());
                return Err(format!("{text}, but a socket's path has at most {max}: use a relative one"));
            }
        }
        Ok(())
    }

    /// Says what is wrong with all ports of a machine together, and the cure. `serial_is_stdio`: that place is taken.
    pub(crate) fn check_all(all: &[Self], serial_is_stdio: bool) -> Result<(), String> {
        all.iter().try_for_each(Self::check)?;
        if all.len() > MAX_PORTS {
            return Err(format!("there are {}, but a machine has at most {MAX_PORTS}", all.len()));
        }
        if all.iter().skip(1).any(|port| port.name.is_none()) {
            return Err(
                "the first one is hvc0 in the guest, but further ones are found by a name: add name=NAME".into()
            );
        }
        let stdio = all.iter().filter(|port| port.place == ConsolePlace::Stdio).count();
        if stdio > 1 {
            return Err("stdio is given twice: there is one standard input".into());
        }
        if stdio == 1 && serial_is_stdio {
            return Err("both the serial port and a console are on stdio: \
                        leave --serial out, or give it another place, such as --serial null"
                .into());
        }
        for (at, port) in all.iter().enumerate() {
            if let Some(name) = &port.name
                && all.iter().take(at).any(|before| before.name.as_ref() == Some(name))
            {
                return Err(format!("name={name} is given twice"));
            }
        }
        Ok(())
    }
}

/// What stands behind a socket's path where the terminal's size is told.
pub const SIZE_SUFFIX: &str = ".size";

impl FromStr for ConsoleConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text).map_err(|problem| ConfigError::Console { text: text.to_owned(), problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_what_its_keys_say() {
        let port = |text: &str| text.parse::<ConsoleConfig>().unwrap();
        assert_eq!(port("stdio"), ConsoleConfig::new(ConsolePlace::Stdio));
        let full = port("socket=dir/s,log=l,name=org.agent.0");
        let expected = ConsoleConfig::new(ConsolePlace::Socket("dir/s".into()));
        assert_eq!(full, ConsoleConfig { name: Some("org.agent.0".into()), log: Some("l".into()), ..expected });
        assert_eq!(port("pty,name=a").place, ConsolePlace::Pty);
        assert_eq!(port("file=f").place, ConsolePlace::File("f".into()));
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<ConsoleConfig>(&json).unwrap(), full);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_cure() {
        let long = format!("socket={}", "x".repeat(103));
        for (text, expected) in [
            ("", "it goes nowhere: begin with stdio, file=PATH, socket=PATH or pty"),
            ("name=a", "it goes nowhere: begin with stdio, file=PATH, socket=PATH or pty"),
            ("socket=", "it goes nowhere: begin with stdio, file=PATH, socket=PATH or pty"),
            ("pty,name=a/b", "name=a/b: give 1 to 64 letters, digits, dots, dashes and underscores"),
            ("pty,size=1", "there is no key 'size': there are name, log"),
            ("pty,name=a,name=b", "name is given twice"),
            (
                &long,
                &format!(
                    "socket={}: with .size behind it, it has 108 bytes, but a socket's path has at most 107: \
                     use a relative one",
                    "x".repeat(103)
                ),
            ),
        ] {
            let Err(ConfigError::Console { problem, .. }) = text.parse::<ConsoleConfig>() else { panic!("{text}") };
            assert_eq!(problem, expected, "{text}");
        }
    }

    #[test]
    fn ports_that_do_not_go_together_are_refused() {
        for (texts, serial, expected) in [
            (&["pty", "pty"][..], false, "further ones are found by a name"),
            (&["stdio", "stdio,name=a"], false, "stdio is given twice"),
            (&["stdio"], true, "leave --serial out"),
            (&["pty,name=a", "pty,name=a"], false, "name=a is given twice"),
        ] {
            let ports: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
            let problem = ConsoleConfig::check_all(&ports, serial).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
        let ports: Vec<_> = (0..17).map(|at| format!("pty,name=p{at}").parse().unwrap()).collect();
        assert_eq!(ConsoleConfig::check_all(&ports, true).unwrap_err(), "there are 17, but a machine has at most 16");
        assert_eq!(ConsoleConfig::check_all(&ports[..16], true), Ok(()));
    }
}
