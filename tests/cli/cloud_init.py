"""Prints what cloud-init would do with a seed and its configuration in FOLDER: to keys, the host name, and its default user's password.

Usage: cloud_init.py FOLDER SEED, with the python3 that cloud-init is installed for.
"""
import json
import sys

from cloudinit import cloud, distros, helpers, util
from cloudinit.config import cc_ssh
from cloudinit.sources import DataSourceConfigDrive

folder, seed = sys.argv[1:]
cfg = util.read_conf_with_confd(folder + "/cloud.cfg")
paths = helpers.Paths({"cloud_dir": folder + "/cloud", "run_dir": folder + "/run"})
distro = distros.fetch("debian")("debian", cfg["system_info"], paths)
source = DataSourceConfigDrive.DataSourceConfigDrive({}, distro, paths)
read = DataSourceConfigDrive.read_config_drive(seed)
source.metadata, source.ec2_metadata = read["metadata"], read.get("ec2-metadata")

keys = {}
cc_ssh.ssh_util.setup_user_keys = lambda given, user, options=None: keys.update({user: [sorted(given), options]})
root_is_refused = util.get_cfg_option_bool(cfg, "disable_root", True)
cc_ssh.apply_credentials(source.get_public_ssh_keys(), "debian", root_is_refused, "refused")
name = util.get_hostname_fqdn(cfg, cloud.Cloud(source, paths, {}, distro, None))
distro.set_option("prefer_fqdn_over_hostname", cfg.get("prefer_fqdn_over_hostname"))
user = distro.get_default_user()
print(json.dumps({
    "keys": keys,
    "hostname": distro._select_hostname(name[0], name[1]),
    "deletes_host_keys": cfg.get("ssh_deletekeys", True),
    "default_user": [user["name"], user["gecos"], user.get("lock_passwd", True)],
}))
