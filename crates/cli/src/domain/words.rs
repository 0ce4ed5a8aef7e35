//! The words that stand for a domain's values on the command line.

use std::str::FromStr;

use super::{DiskFormat, Error, Firmware, Link, MachineType};

impl FromStr for DiskFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "qcow2" => Ok(Self::Qcow2),
            "raw" => Ok(Self::Raw),
            _ => refused("the format", text, "it is qcow2 or raw"),
        }
    }
}

impl FromStr for MachineType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "q35" => Ok(Self::Q35),
            "pc" => Ok(Self::Pc),
            _ => refused("the chipset", text, "it is q35 or pc"),
        }
    }
}

impl FromStr for Firmware {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "bios" => Ok(Self::Bios),
            "efi" | "uefi" => Ok(Self::Efi),
            _ => refused("the firmware", text, "it is bios or efi"),
        }
    }
}

impl FromStr for Link {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            None if text == "user" => Ok(Self::User { forwards: Vec::new() }),
            Some(("bridge", bridge)) if !bridge.is_empty() => Ok(Self::Bridge { bridge: bridge.to_owned() }),
            Some(("network", network)) if !network.is_empty() => Ok(Self::Network { network: network.to_owned() }),
            _ => refused("the network", text, "it is user, bridge:NAME or network:NAME"),
        }
    }
}

fn refused<T>(what: &'static str, text: &str, rule: &'static str) -> Result<T, Error> {
    Err(Error::Value { what, value: text.to_owned(), rule })
}

#[cfg(test)]
mod tests {
    use super::{DiskFormat, Firmware, Link, MachineType};

    #[test]
    fn words_stand_for_values_and_others_are_refused() {
        assert_eq!("qcow2".parse::<DiskFormat>().unwrap(), DiskFormat::Qcow2);
        assert_eq!("pc".parse::<MachineType>().unwrap(), MachineType::Pc);
        assert_eq!("efi".parse::<Firmware>().unwrap(), Firmware::Efi);
        assert_eq!("bridge:br0".parse::<Link>().unwrap(), Link::Bridge { bridge: "br0".to_owned() });
        assert_eq!("user".parse::<Link>().unwrap(), Link::User { forwards: Vec::new() });
        assert!("vmdk".parse::<DiskFormat>().is_err() && "virt".parse::<MachineType>().is_err());
        for text in ["", "bridge:", "bridge", "user:x", "tap:0"] {
            assert!(text.parse::<Link>().is_err(), "{text}");
        }
    }
}
