//! The commands: one file or folder each, with its arguments and what it does.

pub mod boot;
pub mod console;
pub mod disk;
pub mod domain;
pub mod generate;
pub mod image;
mod late;
pub mod list;
pub mod nbd;
pub mod prepare;
pub mod remove;
mod running;
pub mod seed;
pub mod show;
pub mod ssh;
pub mod stop;
pub mod store;
pub mod verify;

use std::ffi::{OsStr, OsString};

use clap::error::ErrorKind as ClapErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::context::Context;
use crate::error::CommandError;
use crate::exit::ExitStatus;
use late::Late;

/// Prepares and seeds virtual machine disks: no root, no mount, no appliance.
#[derive(Debug, Parser)]
#[command(name = "vmimg", bin_name = "vmimg", version, disable_help_subcommand = true, subcommand_required = true)]
#[command(arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program is asked to do.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Make a machine from a base image, ready to boot
    Prepare(Box<Late<prepare::Args>>),
    /// Start a machine
    Boot(Late<boot::Args>),
    /// List the machines
    List(Late<list::Args>),
    /// Show everything about a machine
    Show(Late<show::Args>),
    /// Read machines again and compare them with their records
    Verify(Late<verify::Args>),
    /// Shut machines down, or switch them off
    Stop(Late<stop::Args>),
    /// Remove machines with their disks
    Remove(Late<remove::Args>),
    /// Connect to a guest's serial console, or print its log
    Console(Late<console::Args>),
    /// Log in to a guest
    Ssh(Late<ssh::Args>),
    /// What is inside a disk: files, partitions, changes without a mount
    Disk(Late<disk::Args>),
    /// Image files, with qemu-img's verbs and options
    Image(Late<image::Args>),
    /// Network block devices: images where other programs expect a device
    Nbd(Late<nbd::Args>),
    /// What a guest reads at its first boot: seeds and keys
    Seed(Late<seed::Args>),
    /// Base images by name: add, list, verify, remove
    Store(Late<store::Args>),
    /// Descriptions of virtual machines, for libvirt
    Domain(Late<domain::Args>),
    /// Write man pages or shell completions
    Generate(Late<generate::Args>),
}

/// Does what `command` says.
///
/// # Errors
///
/// What the command failed with.
pub fn run(command: Command, context: &Context) -> Result<(), CommandError> {
    if !matches!(command, Command::Nbd(_)) {
        context.interrupt().die_at_second();
    }
    match command {
        Command::Prepare(args) => prepare::run(&args.0, context),
        Command::Boot(Late(args)) => boot::run(args, context),
        Command::List(Late(args)) => list::run(args, context),
        Command::Show(Late(args)) => show::run(args, context),
        Command::Verify(Late(args)) => verify::run(args, context),
        Command::Stop(Late(args)) => stop::run(args, context),
        Command::Remove(Late(args)) => remove::run(args, context),
        Command::Console(Late(args)) => console::run(args, context),
        Command::Ssh(Late(args)) => ssh::run(args, context),
        Command::Disk(Late(args)) => disk::run(args, context),
        Command::Image(Late(args)) => image::run(args, context),
        Command::Nbd(Late(args)) => nbd::run(args, context),
        Command::Seed(Late(args)) => seed::run(args, context),
        Command::Store(Late(args)) => store::run(args, context),
        Command::Domain(Late(args)) => domain::run(args, context),
        Command::Generate(Late(args)) => generate::run(args, context),
    }
}

/// Reads a command from `arguments`, the first of which is the program's own name.
///
/// # Errors
///
/// What is wrong with the arguments, or the help that they ask for.
pub fn parse(arguments: &[OsString]) -> Result<Command, clap::Error> {
    let matches = clap_command().try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches).map(|cli| cli.command)
}

/// Returns the whole command line as clap knows it, help texts 80 columns wide.
#[must_use]
pub fn clap_command() -> clap::Command {
    Cli::command().term_width(80).help_template(TEMPLATE).before_help(groups()).after_help(EXAMPLES)
}

/// Prints the help that was asked for, or says what is wrong with the arguments; returns the exit status.
#[must_use]
pub fn report_usage(error: &clap::Error, arguments: &[OsString], context: &Context) -> ExitStatus {
    let text = error.render();
    match error.kind() {
        ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion => {
            match context.write_out(text.to_string().as_bytes()).and_then(|()| context.flush()) {
                Ok(()) => ExitStatus::Done,
                Err(error) => ExitStatus::from(error.kind()),
            }
        }
        _ => {
            context.write_error(&if context.colors() { text.ansi().to_string() } else { text.to_string() });
            if let [_, group, verb, ..] = arguments
                && (group == "disk" && verb == "rm" && text.to_string().contains("'--format"))
            {
                context.write_error("\n  tip: `-f` is the image's format; files that may be missing: `rm -r --force`\n");
            }
            if takes_codes_of_qemu_img(arguments) { ExitStatus::Unexpected } else { ExitStatus::Usage }
        }
    }
}

/// Returns the exit status for the failure of the command in `arguments`.
#[must_use]
pub fn status_of(error: &CommandError, arguments: &[OsString]) -> ExitStatus {
    match (ExitStatus::from(error.kind()), error.status()) {
        (ExitStatus::Done, _) => ExitStatus::Done,
        (_, Some(code)) => ExitStatus::Verb(code),
        _ if takes_codes_of_qemu_img(arguments) => ExitStatus::Unexpected,
        (status, None) => status,
    }
}

fn takes_codes_of_qemu_img(arguments: &[OsString]) -> bool {
    arguments.get(1).is_some_and(|verb| verb == OsStr::new("image"))
}

/// Returns the commands by what they are about, with their first lines.
fn groups() -> String {
    let cli = Cli::command();
    let mut text = String::new();
    for (title, names) in GROUPS {
        text.push_str(&format!("{title}:\n"));
        for name in *names {
            let about = cli.find_subcommand(name).and_then(clap::Command::get_about).map(ToString::to_string);
            text.push_str(&format!("  {name:<10} {}\n", about.unwrap_or_default()));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

const TEMPLATE: &str = "\
{about-with-newline}
{usage-heading} {usage}

{before-help}Options:
{options}{after-help}";

const GROUPS: &[(&str, &[&str])] = &[
    ("Machines", &["prepare", "boot", "list", "show", "verify", "stop", "remove", "console", "ssh"]),
    ("Images and descriptions", &["disk", "image", "nbd", "seed", "store", "domain"]),
    ("The program itself", &["generate"]),
];

const EXAMPLES: &str = "\
`vmimg COMMAND --help` says more, with examples.

Exit status: 0 done, 1 unexpected, 2 usage, 3 not found, 4 corrupt,
5 unsupported, 6 refused, 7 storage, 8 hypervisor, 9 timed out.
Under `vmimg image`: qemu-img's own, 0 and 1.";

#[cfg(test)]
mod tests {
    use super::{Cli, GROUPS, clap_command};
    use clap::CommandFactory;

    #[test]
    fn the_arguments_make_sense_to_clap() {
        clap_command().debug_assert();
    }

    #[test]
    fn every_command_is_in_one_group_of_the_help() {
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let cli = Cli::command();
        let mut commands: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
        grouped.sort_unstable();
        commands.sort_unstable();
        assert_eq!(grouped, commands);
    }
}
