<?php
// PHP's extensions memcached and memcache. Usage: php memcached.php VARIANT HOST:PORT,...
[$variant, $servers] = [$argv[1], explode(",", $argv[2])];
$client = str_starts_with($variant, "memcache:") ? new Memcache() : new Memcached();
foreach ($servers as $server) {
    $at = strrpos($server, ":");
    if ($server[0] === "/") {
        $client->addServer($client instanceof Memcached ? $server : "unix://$server", 0);
    } else {
        $host = substr($server, 0, $at);
        // memcache needs the brackets of an IPv6 address, and memcached does not take them.
        $host = $client instanceof Memcached ? trim($host, "[]") : $host;
        $client->addServer($host, (int) substr($server, $at + 1));
    }
}
if ($client instanceof Memcached) {
    $options = [
        "memcached:ketama" => [Memcached::OPT_LIBKETAMA_COMPATIBLE => true],
        "memcached:consistent" => [
            Memcached::OPT_DISTRIBUTION => Memcached::DISTRIBUTION_CONSISTENT,
            Memcached::OPT_COMPRESSION_TYPE => Memcached::COMPRESSION_ZLIB,
        ],
        "memcached:consistent-md5" => [
            Memcached::OPT_HASH => Memcached::HASH_MD5,
            Memcached::OPT_DISTRIBUTION => Memcached::DISTRIBUTION_CONSISTENT,
        ],
        "memcached:json" => [Memcached::OPT_SERIALIZER => Memcached::SERIALIZER_JSON_ARRAY],
        "memcached:igbinary" => [Memcached::OPT_SERIALIZER => Memcached::SERIALIZER_IGBINARY],
        "memcached:msgpack" => [Memcached::OPT_SERIALIZER => Memcached::SERIALIZER_MSGPACK],
        "memcached:user-flags" => [Memcached::OPT_USER_FLAGS => 5],
    ];
    $client->setOptions($options[$variant] ?? []);
}

// Letters with short repetitions. PHP compresses values from 64 KiB on in another way.
function letters(int $count): string
{
    for ($text = "", $seed = 1; strlen($text) < $count;) {
        $seed = ($seed * 1103515245 + 12345) % (1 << 31);
        $text .= "abcde"[($seed >> 16) % 5];
    }
    return $text;
}

$values = [
    "letters" => letters(5000), "far" => letters(9000) . str_repeat("-", 60000) . letters(9000),
    "text" => "text", "unicode" => "clé ключ", "empty" => "",
    "long" => str_repeat("abcdefghij", 2000), "huge" => str_repeat("0123456789abcdef", 10000),
    "int" => 41, "zero" => 0, "negative" => -5, "large" => 1 << 40, "float" => 1.5,
    "third" => 1 / 3, "infinite" => INF, "true" => true, "false" => false, "null" => null,
    "bytes" => "\xff\x00", "list" => [1, "x"],
];

function described(mixed $value): string
{
    return match (gettype($value)) {
        "string" => "string " . bin2hex($value),
        "integer" => "int " . bin2hex((string) $value),
        "double" => "float " . bin2hex(pack("E", $value)),
        "boolean" => "bool " . bin2hex($value ? "true" : "false"),
        "NULL" => "null ",
        default => "json " . bin2hex(json_encode($value)),
    };
}

function stored(object $client, string $key, mixed $value): bool
{
    if ($client instanceof Memcached) {
        return $client->set($key, $value);
    }
    return $client->set($key, $value, is_string($value) && strlen($value) > 1000 ? MEMCACHE_COMPRESSED : 0);
}

while (($line = fgets(STDIN)) !== false) {
    [$command, $key, $name] = explode(" ", trim($line)) + [2 => ""];
    if ($command === "get") {
        $value = $client->get($key);
        $missing = $client instanceof Memcached && $client->getResultCode() !== Memcached::RES_SUCCESS;
        echo $missing ? "missing " : described($value), "\n";
    } elseif (array_key_exists($name, $values)) {
        echo stored($client, $key, $values[$name]) ? "ok" : "failed", "\n";
    } else {
        echo "unknown\n";
    }
}
echo "version ", phpversion($client instanceof Memcached ? "memcached" : "memcache"), "\n";
