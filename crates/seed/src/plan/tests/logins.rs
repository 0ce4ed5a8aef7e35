//! Who can log in, and how.

use super::{ANA, material, planned, step, warnings, written};
use crate::guest::fake::{alpine, debian};

#[test]
fn a_password_is_never_of_the_day_that_means_change_me() {
    let mut material = material();
    material.now = 0;
    let plan = planned(debian(), "{root_password_hash: h, users: [{name: ana, create: true}]}", &material).unwrap();
    let shadow = written(&plan, "/etc/shadow").unwrap();
    assert!(shadow.starts_with("root:h:1:0:") && shadow.ends_with("ana:*:1:0:99999:7:::\n"), "{shadow}");
}

#[test]
fn a_password_in_shadow_is_looked_for_there() {
    let files =
        debian().file("/etc/passwd", "root::0:0:root:/root:/bin/bash\ndebian:$1$old:1000:1000::/home/debian:/bin/bash\n");
    let yaml = "{root_password_hash: $y$a, users: [{name: debian, password_hash: $y$b}]}";
    let plan = planned(files, yaml, &material()).unwrap();
    assert_eq!(
        written(&plan, "/etc/passwd").as_deref(),
        Some("root:x:0:0:root:/root:/bin/bash\ndebian:x:1000:1000::/home/debian:/bin/bash\n")
    );
}

#[test]
fn accounts_with_names_alike_have_sudo_each() {
    let yaml = "users: [{name: a.b, create: true, sudo: true}, {name: a_b, create: true, sudo: true}]";
    let plan = planned(debian(), yaml, &material()).unwrap();
    assert_eq!(written(&plan, "/etc/sudoers.d/90-vmimg-a=2eb").as_deref(), Some("a.b ALL=(ALL:ALL) NOPASSWD:ALL\n"));
    assert_eq!(written(&plan, "/etc/sudoers.d/90-vmimg-a_b").as_deref(), Some("a_b ALL=(ALL:ALL) NOPASSWD:ALL\n"));
}

#[test]
fn an_alpine_account_locked_with_its_password_is_warned_about() {
    let files = alpine().file("/etc/shadow", "root:!$6$hash::0:::::\n");
    let plan = planned(files, &format!("root_keys: ['{ANA}']"), &material()).unwrap();
    assert_eq!(written(&plan, "/etc/shadow"), None, "the password is kept");
    assert!(warnings(&plan)[0].contains("locked with its password kept"), "{:?}", plan.notes);
}

#[test]
fn the_settings_of_sshd_count_as_sshd_reads_them() {
    let warned = |main: &str, drop_in: &str| {
        let files = debian().file("/etc/ssh/sshd_config", main).file("/etc/ssh/sshd_config.d/50-a.conf", drop_in);
        let plan = planned(files, &format!("root_keys: ['{ANA}']"), &material()).unwrap();
        warnings(&plan).len()
    };
    let include = "Include /etc/ssh/sshd_config.d/*.conf\n";
    assert_eq!(warned(include, "PermitRootLogin=no\n"), 1);
    assert_eq!(warned("", "PermitRootLogin no\n"), 0, "it is not included");
    assert_eq!(warned("PermitRootLogin yes\nPermitRootLogin no\n", ""), 0, "the first counts");
    assert_eq!(warned(&format!("{include}permitrootlogin no\n"), "PermitRootLogin without-password\n"), 0);
    assert_eq!(warned("Match User git\n  PermitRootLogin no\n  AuthorizedKeysFile /srv/%u\n", ""), 0);
    assert_eq!(warned("Match User git\n  X11Forwarding no\nMatch all\n  PermitRootLogin no\n", ""), 1);
    assert_eq!(warned(include, "Match User git\n AuthorizedKeysFile /srv/%u\n"), 0);
    assert_eq!(warned("Include sshd_config.d/50-a.conf sshd_config\n", "AuthorizedKeysFile /srv/%u # all\n"), 1);
}

#[test]
fn an_sshd_config_that_includes_itself_ends() {
    let files = debian().file(
        "/etc/ssh/sshd_config",
        "HostKey ../x\nInclude sshd_config ../* sshd_config* /etc/passwd/x /etc/passwd/* /a/../b\n".repeat(1000),
    );
    let plan = planned(files, &format!("root_keys: ['{ANA}']"), &material()).unwrap();
    assert_eq!(warnings(&plan), [] as [&str; 0]);
}

#[test]
fn many_accounts_are_no_work() {
    let mut passwd = "root:x:0:0:root:/root:/bin/bash\n".to_owned();
    for uid in 1000..60_000 {
        passwd += &format!("u{uid}:x:{uid}:{uid}::/:/bin/sh\n");
    }
    let begun = std::time::Instant::now();
    let plan = planned(debian().file("/etc/passwd", passwd), "users: [{name: ana, create: true}]", &material()).unwrap();
    assert!(written(&plan, "/etc/passwd").unwrap().ends_with("\nana:x:60000:60000::/home/ana:/bin/bash\n"));
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn a_skeleton_without_end_is_copied_in_part() {
    let big = vec![b'x'; 1 << 20];
    let files = (0..20).fold(debian(), |files, n| files.file(&format!("/etc/skel/big{n:02}"), &big));
    let yaml = "users: [{name: ana, create: true}, {name: bob, create: true}]";
    let plan = planned(files, yaml, &material()).unwrap();
    let copied: u64 = plan.describe().iter().filter(|step| step.path.contains("/big")).filter_map(|step| step.size).sum();
    assert_eq!(copied, 6 << 20, "three of them fit beside .bashrc, in two homes");
    assert!(warnings(&plan)[0].contains("not all were copied"), "{:?}", plan.notes);
    step(&plan, "write", "/home/bob/.bashrc");
}

#[test]
fn a_folder_with_too_many_names_is_refused_by_name() {
    let yaml = "users: [{name: ana, create: true}]";
    let error = planned(debian().huge_dir("/etc/skel/a"), yaml, &material()).unwrap_err();
    assert_eq!(error.to_string(), "the folder `/etc/skel/a` of the guest has more than 4 MiB of names");
}

#[test]
fn a_plan_that_is_not_wanted_any_more_ends() {
    let (guest, tree) = debian().inspect();
    let seed = super::seed("users: [{name: ana, create: true}]");
    let left = std::cell::Cell::new(3);
    let check = || {
        left.set(left.get() - 1);
        if left.get() == 0 { Err(super::Error::MissingHostKeys) } else { Ok(()) }
    };
    super::super::plan(&guest, &tree, &seed, &material(), check).unwrap_err();
}
