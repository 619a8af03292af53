// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How each VMM is told what to run.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Card, MEMORY, Machine, Monitor};

/// The context ID of a guest with a socket device.
const CID: u32 = 3;

/// As `vmm run --help` has it.
pub(super) fn vmm(monitor: &Monitor, machine: &Machine) -> Command {
    let mut command = Command::new(&monitor.program);
    command.arg("run").arg("--kernel").arg(&machine.kernel);
    command.args(["--memory", &format!("{MEMORY}M"), "--cpus", &machine.cpus.to_string()]);
    command.args(["--cmdline", &machine.cmdline]);
    if let Some(transport) = &monitor.transport {
        command.args(["--transport", transport]);
    }
    if let Some(initrd) = &machine.initrd {
        command.arg("--initrd").arg(initrd);
    }
    if let Some(disk) = &machine.disk {
        command.arg("--disk").arg(path_and("path=", disk, ",readonly=on"));
    }
    if let Some(data) = &machine.data {
        let keys = monitor.data_as.as_ref().map_or_else(String::new, |keys| format!(",{keys}"));
        command.arg("--disk").arg(path_and("path=", data, &keys));
    }
    if let Some(Card { tap, mac, queues }) = &machine.card {
        let keys = monitor.card_as.as_ref().map_or_else(String::new, |keys| format!(",{keys}"));
        command.arg("--net").arg(format!("tap={tap},mac={mac},queues={queues}{keys}"));
    }
    if let Some(socket) = &machine.vsock {
        command.arg("--vsock").arg(path_and(&format!("cid={CID},socket="), socket, ""));
    }
    command
}

/// As its documentation has it for a start without its API server (docs/getting-started.md). It adds to the command line
/// where its virtio-mmio devices are, and that there is no PCI.
pub(super) fn firecracker(monitor: &Monitor, machine: &Machine, scratch: &Path) -> Result<Command> {
    let mut boot_source = json!({ "kernel_image_path": machine.kernel, "boot_args": machine.cmdline });
    if let Some(initrd) = &machine.initrd {
        boot_source["initrd_path"] = json!(initrd);
    }
    let drive = |id: &str, path: &Path, is_read_only: bool| json!({ "drive_id": id, "path_on_host": path, "is_root_device": false, "is_read_only": is_read_only });
    let mut drives: Vec<Value> = machine.disk.iter().map(|disk| drive("disk", disk, true)).collect();
    if let Some(data) = &machine.data {
        let mut drive = drive("data", data, false);
        if let Some(engine) = &monitor.data_as {
            drive["io_engine"] = json!(engine);
        }
        drives.push(drive);
    }
    let interface = |card: &Card| json!({ "iface_id": "card", "host_dev_name": card.tap, "guest_mac": card.mac });
    let vsock = machine.vsock.as_ref().map(|socket| json!({ "guest_cid": CID, "uds_path": socket }));
    let config = json!({
        "vsock": vsock,
        "boot-source": boot_source,
        "drives": drives,
        "network-interfaces": machine.card.iter().map(interface).collect::<Vec<_>>(),
        "machine-config": { "vcpu_count": machine.cpus, "mem_size_mib": MEMORY },
    });
    let path = scratch.join("firecracker.json");
    fs::write(&path, config.to_string()).with_context(|| format!("can't write {}", path.display()))?;
    let mut command = Command::new(&monitor.program);
    // Its log goes to standard output.
    command.args(["--no-api", "--level", "Error", "--config-file"]).arg(path);
    Ok(command)
}

/// As its `--help` has it. Without `image_type`, it would refuse to write the first sector of a raw disk.
pub(super) fn cloud_hypervisor(monitor: &Monitor, machine: &Machine) -> Command {
    let mut command = Command::new(&monitor.program);
    command.arg("--kernel").arg(&machine.kernel).args(["--cmdline", &machine.cmdline]);
    command.args(["--cpus", &format!("boot={}", machine.cpus), "--memory", &format!("size={MEMORY}M")]);
    command.args(["--serial", "tty", "--console", "off"]);
    if let Some(initrd) = &machine.initrd {
        command.arg("--initramfs").arg(initrd);
    }
    let disks = [(&machine.disk, ",readonly=on"), (&machine.data, "")];
    let disks: Vec<_> = disks.into_iter().filter_map(|(disk, keys)| Some((disk.as_ref()?, keys))).collect();
    if !disks.is_empty() {
        // One flag for all of them.
        let value = |(path, keys): (&std::path::PathBuf, &str)| path_and("image_type=raw,path=", path, keys);
        command.arg("--disk").args(disks.into_iter().map(value));
    }
    if let Some(Card { tap, mac, queues }) = &machine.card {
        // It counts each direction.
        command.arg("--net").arg(format!("tap={tap},mac={mac},num_queues={}", 2 * queues));
    }
    if let Some(socket) = &machine.vsock {
        command.arg("--vsock").arg(path_and(&format!("cid={CID},socket="), socket, ""));
    }
    command
}

fn path_and(before: &str, path: &Path, behind: &str) -> OsString {
    let mut value = OsString::from(before);
    value.push(path);
    value.push(behind);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            kernel: "/g/vmlinux".into(),
            cmdline: "console=ttyS0 quiet".to_owned(),
            initrd: Some("/g/initrd".into()),
            disk: Some("/g/rootfs.ext4".into()),
            data: None,
            cpus: 1,
            card: None,
            vsock: None,
        }
    }

    fn with_card() -> Machine {
        let card = Card { tap: "tap0".to_owned(), mac: "52:54:00:00:00:01".to_owned(), queues: 2 };
        Machine { cpus: 2, card: Some(card), ..machine() }
    }

    fn with_data() -> Machine {
        Machine { data: Some("/d/data".into()), ..machine() }
    }

    fn bare() -> Machine {
        Machine { initrd: None, disk: None, ..machine() }
    }

    fn words(command: &Command) -> Vec<String> {
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn our_own_command_line_is_one_of_vmm_run() {
        let ours = Monitor::ours("vmm".into());
        let expected = [
            "run",
            "--kernel",
            "/g/vmlinux",
            "--memory",
            "256M",
            "--cpus",
            "1",
            "--cmdline",
            "console=ttyS0 quiet",
            "--initrd",
            "/g/initrd",
            "--disk",
            "path=/g/rootfs.ext4,readonly=on",
        ];
        assert_eq!(words(&vmm(&ours, &machine())), expected);
        let plain = words(&vmm(&ours, &with_data()));
        assert_eq!(plain[expected.len()..], ["--disk", "path=/d/data"]);
        let told = ours.on_transport("pci").with_disk_keys("engine=sync,queues=2");
        let told = words(&vmm(&told, &with_data()));
        assert!(told.windows(2).any(|pair| pair == ["--transport", "pci"]), "{told:?}");
        assert_eq!(told.last().unwrap(), "path=/d/data,engine=sync,queues=2");
        let told = words(&vmm(&Monitor::ours("vmm".into()).with_net_keys("transport=pci"), &with_card())).join(" ");
        assert!(told.ends_with(" --net tap=tap0,mac=52:54:00:00:00:01,queues=2,transport=pci"), "{told}");
        assert!(told.contains(" --cpus 2 "), "{told}");
    }

    fn config(peer: &Monitor, machine: &Machine) -> Value {
        let scratch = tempfile::tempdir().unwrap();
        let path = words(&firecracker(peer, machine, scratch.path()).unwrap()).pop().unwrap();
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn firecracker_gets_the_same_machine_in_a_file() {
        let peer: Monitor = "firecracker=fc".parse().unwrap();
        let full = config(&peer, &machine());
        assert_eq!(full["boot-source"]["boot_args"], "console=ttyS0 quiet");
        assert_eq!(full["boot-source"]["initrd_path"], "/g/initrd");
        assert_eq!(full["drives"][0]["is_read_only"], true);
        assert_eq!(full["machine-config"]["mem_size_mib"], 256);
        let bare = config(&peer, &bare());
        assert_eq!((&bare["drives"], &bare["network-interfaces"]), (&json!([]), &json!([])));
        assert!(bare["boot-source"].get("initrd_path").is_none());
    }

    #[test]
    fn firecracker_is_told_the_engine_of_the_data_disk_alone() {
        for engine in "firecracker=fc".parse::<Monitor>().unwrap().engines() {
            let config = config(&engine, &with_data());
            assert_eq!(config["drives"][0].get("io_engine"), None);
            assert_eq!(config["drives"][1]["path_on_host"], "/d/data");
            assert_eq!(config["drives"][1]["is_read_only"], false);
            assert!(engine.name.ends_with(config["drives"][1]["io_engine"].as_str().unwrap()), "{}", engine.name);
        }
    }

    #[test]
    fn firecracker_gets_the_card_as_an_interface() {
        let config = config(&"firecracker=fc".parse().unwrap(), &with_card());
        let expected = json!([{ "iface_id": "card", "host_dev_name": "tap0", "guest_mac": "52:54:00:00:00:01" }]);
        assert_eq!(config["network-interfaces"], expected);
        assert_eq!(config["machine-config"]["vcpu_count"], 2);
    }

    #[test]
    fn cloud_hypervisor_is_told_of_the_queues_of_both_directions() {
        let told = words(&cloud_hypervisor(&"cloud-hypervisor=ch".parse().unwrap(), &with_card())).join(" ");
        assert!(told.ends_with(" --net tap=tap0,mac=52:54:00:00:00:01,num_queues=4"), "{told}");
        assert!(told.contains(" --cpus boot=2 "), "{told}");
    }

    #[test]
    fn cloud_hypervisor_gets_all_disks_behind_one_flag() {
        let peer: Monitor = "cloud-hypervisor=ch".parse().unwrap();
        let expected = "--kernel /g/vmlinux --cmdline console=ttyS0 quiet --cpus boot=1 --memory size=256M \
            --serial tty --console off --initramfs /g/initrd \
            --disk image_type=raw,path=/g/rootfs.ext4,readonly=on image_type=raw,path=/d/data";
        assert_eq!(words(&cloud_hypervisor(&peer, &with_data())).join(" "), expected);
        assert!(!words(&cloud_hypervisor(&peer, &bare())).contains(&"--disk".to_owned()));
    }
}
