"""Reads a seed with cloud-init's own data sources and prints what they make of it.

Usage: cloud_init.py nocloud|configdrive FOLDER, with the python3 that cloud-init is installed for.
"""
import json
import os
import sys
import tempfile

from cloudinit import helpers
from cloudinit.net import network_state
from cloudinit.sources import DataSourceConfigDrive, DataSourceNoCloud
from cloudinit.sources.helpers import openstack


def text(value):
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def interfaces(config):
    state = network_state.parse_net_config_data(config)
    names = ("name", "mac_address", "mtu", "subnets")
    return {
        "interfaces": [{name: one.get(name) for name in names} for one in state.iter_interfaces()],
        "dns": state.dns_nameservers,
        "search": state.dns_searchdomains,
    }


kind, folder = sys.argv[1:]
with tempfile.TemporaryDirectory() as scratch:
    paths = helpers.Paths({"cloud_dir": scratch + "/cloud", "run_dir": scratch + "/run"})
    os.makedirs(scratch + "/cloud/seed")
    if kind == "configdrive":
        read = DataSourceConfigDrive.read_config_drive(folder)
        source = DataSourceConfigDrive.DataSourceConfigDrive({}, None, paths)
        source.metadata = read["metadata"]
        source.ec2_metadata = read.get("ec2-metadata")
        out = {
            "version": read["version"],
            "instance_id": read["metadata"]["uuid"],
            "random_seed": len(read["metadata"].get("random_seed") or b""),
            "files": {path: text(body) for path, body in (read.get("files") or {}).items()},
            "user_data": text(read.get("userdata")),
            "ec2": read.get("ec2-metadata"),
        }
        network = read.get("networkdata")
        config = network and openstack.convert_net_json(network, known_macs={})
    else:
        source = DataSourceNoCloud.DataSourceNoCloud({"datasource": {"NoCloud": {"fs_label": None}}}, None, paths)
        source.seed_dirs = [folder]
        assert source._get_data(), "cloud-init finds no seed"
        out = {
            "instance_id": source.get_instance_id(),
            "user_data": text(source.userdata_raw),
            "vendor_data": text(source.vendordata_raw),
        }
        config = source.network_config
    out["hostname"] = getattr(source.get_hostname(), "hostname", None)
    out["public_keys"] = source.get_public_ssh_keys()
    out["network"] = interfaces(config) if config else None
print(json.dumps(out, default=text))
