// Java's spymemcached. Usage: java -cp spymemcached.jar Spymemcached.java VARIANT HOST:PORT,...
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Date;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import net.spy.memcached.AddrUtil;
import net.spy.memcached.DefaultConnectionFactory;
import net.spy.memcached.KetamaConnectionFactory;
import net.spy.memcached.MemcachedClient;

public class Spymemcached {
    static final Map<String, Object> VALUES = new HashMap<>();

    static {
        VALUES.put("text", "text");
        VALUES.put("unicode", "clé ключ");
        VALUES.put("empty", "");
        VALUES.put("long", "abcdefghij".repeat(2000));
        VALUES.put("huge", "0123456789abcdef".repeat(10000));
        VALUES.put("int", 41);
        VALUES.put("zero", 0);
        VALUES.put("negative", -5);
        VALUES.put("large", 1L << 40);
        VALUES.put("negative-large", -(1L << 40));
        VALUES.put("float", 1.5);
        VALUES.put("third", 1 / 3.0);
        VALUES.put("infinite", Double.POSITIVE_INFINITY);
        VALUES.put("single", 1.5f);
        VALUES.put("byte", (byte) -7);
        VALUES.put("true", true);
        VALUES.put("false", false);
        VALUES.put("bytes", new byte[] {(byte) 255, 0});
        VALUES.put("date", new Date(1_700_000_000_123L));
        VALUES.put("old-date", new Date(-5L));
        VALUES.put("list", new ArrayList<>(List.of(1, "x")));
    }

    static String hex(String text) {
        return HexFormat.of().formatHex(text.getBytes(StandardCharsets.UTF_8));
    }

    static String described(Object value) {
        if (value == null) return "missing ";
        if (value instanceof String text) return "text " + hex(text);
        if (value instanceof Integer || value instanceof Long) {
            return (value instanceof Long ? "long " : "int ") + hex(value.toString());
        }
        if (value instanceof Double number) {
            byte[] bits = ByteBuffer.allocate(8).putDouble(number).array();
            return "float " + HexFormat.of().formatHex(bits);
        }
        if (value instanceof Boolean) return "bool " + hex(value.toString());
        if (value instanceof byte[] bytes) return "bytes " + HexFormat.of().formatHex(bytes);
        if (value instanceof Date date) return "date " + hex(Long.toString(date.getTime()));
        return "other " + hex(value.getClass().getName());
    }

    public static void main(String[] arguments) throws Exception {
        System.setProperty("net.spy.log.LoggerImpl", "net.spy.memcached.compat.log.SunLogger");
        java.util.logging.LogManager.getLogManager().reset();
        var factory = arguments[0].equals("ketama")
            ? new KetamaConnectionFactory() : new DefaultConnectionFactory();
        var servers = AddrUtil.getAddresses(arguments[1].replace(",", " "));
        var client = new MemcachedClient(factory, servers);
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] words = line.split(" ");
            if (words[0].equals("get")) {
                System.out.println(described(client.get(words[1])));
            } else if (VALUES.containsKey(words[2])) {
                boolean stored = client.set(words[1], 0, VALUES.get(words[2])).get();
                System.out.println(stored ? "ok" : "failed");
            } else {
                System.out.println("unknown");
            }
        }
        client.shutdown();
        System.out.println("version ");
    }
}
