//! What all commands have in common.

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;

use crate::sandbox;

#[test]
fn help_goes_to_standard_output_and_succeeds() {
    let help = sandbox().done("--help");
    assert!(
        help.starts_with(
            "Prepares and seeds virtual machine disks: no root, no mount, no appliance\n\nUsage: vmimg <COMMAND>\n"
        )
    );
    assert!(help.contains("\nThe program itself:\n  generate   Write man pages or shell completions\n"), "{help}");
    assert!(help.contains("7 storage, 8 hypervisor, 9 timed out"), "{help}");
}

#[test]
fn an_unknown_command_is_a_usage_error_with_the_nearest_name() {
    insta::assert_snapshot!(sandbox().run("generat man"), @r"
    exit status 2
    --- stderr
    error: unrecognized subcommand 'generat'

      tip: a similar subcommand exists: 'generate'

    Usage: vmimg <COMMAND>

    For more information, try '--help'.
    ");
}

#[test]
fn under_image_the_exit_status_is_that_of_qemu_img() {
    assert_eq!(sandbox().run("image nonsense").status, 1);
}

#[test]
fn an_error_names_its_cause() {
    let sandbox = sandbox();
    sandbox.file("taken", "");
    insta::assert_snapshot!(sandbox.run("generate man taken/man"), @r"
    exit status 7
    --- stderr
    error: cannot write man pages to `[SANDBOX]/taken/man`
    caused by: Not a directory (os error 20)
    ");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let sandbox = sandbox();
    let mut child = sandbox.program().args(["generate", "completions", "bash"]).spawn_with(Stdio::piped());
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_full_disk_under_the_output_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut child = sandbox().program().args(["generate", "completions", "bash"]).spawn_with(full.into());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert!(said.starts_with("error: cannot write to standard output\ncaused by: No space left"), "{said}");
}

#[test]
fn man_pages_and_completions_cover_every_command() {
    let sandbox = sandbox();
    sandbox.done("generate man man");
    let page = std::fs::read_to_string(sandbox.path("man/vmimg-generate-man.1")).unwrap();
    assert!(page.contains("vmimg generate man man && man"), "{page}");
    for shell in ["bash", "fish", "zsh"] {
        assert!(sandbox.done(&format!("generate completions {shell}")).contains("completions"));
    }
}
