//! `vmimg domain`.

use crate::sandbox;

#[test]
fn a_description_names_the_format_that_the_disk_announces() {
    let sandbox = sandbox();
    sandbox.tool("qemu-img").args(["create", "-q", "-f", "qcow2", "web1.qcow2", "1M"]).run();
    let xml = sandbox.done("domain xml --name web1 --disk web1.qcow2 --mac 52:54:00:12:34:56 --accel qemu");
    assert!(xml.contains("<driver name=\"qemu\" type=\"qcow2\" discard=\"unmap\"/>"), "{xml}");
    assert!(xml.contains("<mac address=\"52:54:00:12:34:56\"/>"), "{xml}");
    let forced = sandbox.done("domain xml --name web1 --disk web1.qcow2 --format raw --accel kvm");
    assert!(forced.contains("<domain type=\"kvm\">") && forced.contains("type=\"raw\""), "{forced}");
}

#[test]
fn a_nocloud_seed_is_announced_in_the_smbios_table() {
    let sandbox = sandbox();
    sandbox.file("disk.raw", [0; 512]);
    sandbox.file("seed/meta-data", "instance-id: web1\n");
    let iso = sandbox.tool("genisoimage").args(["-quiet", "-V", "cidata", "-J", "-r", "-o", "seed.iso", "seed"]);
    iso.run();
    let xml = sandbox.done("domain xml --name web1 --disk disk.raw --seed seed.iso --accel qemu");
    assert!(xml.contains("<entry name=\"serial\">ds=nocloud</entry>"), "{xml}");
}

#[test]
fn a_disk_may_be_an_export() {
    let sandbox = sandbox();
    let disks = "--disk nbd://storage.example/web%201 --disk nbd+unix:///?socket=run/data.sock";
    let xml = sandbox.done(&format!("domain xml --name web1 {disks} --accel qemu"));
    assert!(xml.contains("<source protocol=\"nbd\" name=\"web 1\">"), "{xml}");
    assert!(xml.contains("<host name=\"storage.example\" port=\"10809\"/>"), "{xml}");
    assert!(xml.contains("<host transport=\"unix\" socket=\"[SANDBOX]/run/data.sock\"/>"), "{xml}");
    sandbox.file("web1.xml", xml.replace("[SANDBOX]", "/run"));
    sandbox.tool("virt-xml-validate").args(["web1.xml", "domain"]).run();
    for (disk, why) in [
        ("nbds://localhost/?tls-certificates=pki", "a guest's disk is reached without encryption"),
        ("nbd://localhost/web1 --format qcow2", "the format of an export \"qcow2\" is not possible: it is raw"),
    ] {
        let outcome = sandbox.run(&format!("domain xml --name web1 --disk {disk}"));
        assert!(outcome.status == 2 && outcome.stderr.contains(why), "{outcome}");
    }
}

#[test]
fn what_libvirt_would_refuse_is_refused_with_the_reason() {
    let sandbox = sandbox();
    sandbox.file("disk.raw", [0; 512]);
    sandbox.file("disk.vmdk", b"KDMV");
    insta::assert_snapshot!(sandbox.run("domain xml --name a/b --disk disk.raw"), @r#"
    exit status 2
    --- stderr
    error: a domain cannot be named "a/b": it has a slash
    "#);
    insta::assert_snapshot!(sandbox.run("domain xml --name a --disk disk.vmdk"), @r#"
    exit status 5
    --- stderr
    error: the format of "[SANDBOX]/disk.vmdk" is vmdk, and a guest's disk is qcow2 or raw

    hint: `qemu-img convert -O qcow2` makes a qcow2 image of it
    "#);
    insta::assert_snapshot!(sandbox.run("domain xml --name a --disk nothing"), @r#"
    exit status 3
    --- stderr
    error: cannot read "[SANDBOX]/nothing"
    caused by: No such file or directory (os error 2)
    "#);
    insta::assert_snapshot!(sandbox.run("domain xml --name a --disk disk.raw --vcpus 0"), @r#"
    exit status 2
    --- stderr
    error: the number of processors "0" is not possible: it is 1 to 255
    "#);
}
