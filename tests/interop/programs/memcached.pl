# Perl's Cache::Memcached and Cache::Memcached::Fast. Usage: perl memcached.pl VARIANT HOST:PORT,...
use strict;
use warnings;

my ($variant, $servers) = @ARGV;
my $class = $variant =~ /^fast/ ? "Cache::Memcached::Fast" : "Cache::Memcached";
eval "require $class; 1" or die $@;
my %options = (servers => [split /,/, $servers], compress_threshold => 1000);
$options{ketama_points} = 150 if $variant eq "fast:ketama";
$options{utf8} = 1 if $variant eq "fast:utf8";
my $client = $class->new(\%options);

# Text of characters, as a program with "use utf8" has it; Cache::Memcached stores only bytes.
my $unicode = "cl\xc3\xa9 \xd0\xba\xd0\xbb\xd1\x8e\xd1\x87";
utf8::decode($unicode) if $variant eq "fast:utf8";
my %values = (
    text => "text", unicode => $unicode, empty => "", long => "abcdefghij" x 2000,
    huge => "0123456789abcdef" x 10000,
    int => 41, zero => 0, negative => -5, large => 1 << 40, float => 1.5, bytes => "\xff\x00",
    list => [1, "x"],
);

sub described {
    my $value = shift;
    return "missing " unless defined $value;
    return "json " if ref $value;
    # Whether it has characters shows that they came back as characters.
    my $type = utf8::is_utf8($value) ? "characters" : "string";
    utf8::encode($value) if utf8::is_utf8($value);
    return "$type " . unpack("H*", $value);
}

$| = 1;
while (my $line = <STDIN>) {
    my ($command, $key, $name) = split " ", $line;
    if ($command eq "get") {
        print described($client->get($key)), "\n";
    } elsif (exists $values{$name}) {
        print $client->set($key, $values{$name}) ? "ok\n" : "failed\n";
    } else {
        print "unknown\n";
    }
}
print "version ", $class->VERSION, "\n";
